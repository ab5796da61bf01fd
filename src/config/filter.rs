//! `users.where`: the parser of conditions in SQL's syntax. Pure.
//!
//! ```text
//! condition = and {"or" and}; and = not {"and" not}; not = ["not"] test | ["not"] "(" condition ")"
//! test = name ("=" | "<>" | "!=") literal | name ["not"] "in" "(" literal {"," literal} ")" | name "is" ["not"] "null"
//! name = word {"." word} | "\"" any "\""; literal = "'" any "'" | number | true | false
//! ```

use super::error::Fault;
use super::section::{KeyType, Reader};
use super::yaml::Node;
use crate::map::Filter;

const SYNTAX: &str = "for example: type in ('internal', 'external') and deleted is null and not is_service = true; \
                      a text is in single quotes, and a name with special characters in double quotes";

/// Limits the parser's recursion.
const MAX_DEPTH: usize = 32;

/// The key `users.where`.
pub(super) struct Condition;

impl KeyType for Condition {
    type Value = Filter;
    type Schema = String;

    fn expected() -> String {
        "a condition in SQL's syntax".to_owned()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Filter> {
        match parse_filter(&reader.text(node, path)?) {
            Ok(filter) => Some(filter),
            Err(message) => {
                reader.push(Fault::new(&node.span, format!("{path}: {message}")).help(SYNTAX));
                None
            }
        }
    }
}

/// Parses a condition. The error says what was expected.
fn parse_filter(text: &str) -> Result<Filter, String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let filter = parser.condition()?;
    match parser.peek() {
        None => Ok(filter),
        Some(token) => Err(format!("unexpected {}", token.show())),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// A word or number without quotes.
    Word(String),
    /// A name in double quotes.
    Quoted(String),
    /// A text in single quotes.
    Text(String),
    Sign(&'static str),
}

impl Token {
    fn show(&self) -> String {
        match self {
            Token::Word(word) => format!("{word:?}"),
            Token::Quoted(name) => format!("the name {name:?}"),
            // The text may be personal data.
            Token::Text(_) => "a text".to_owned(),
            Token::Sign(sign) => format!("{sign:?}"),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, after) = match first {
            '\'' | '"' => {
                let (inside, after) = quoted(rest, first)?;
                (if first == '"' { Token::Quoted(inside) } else { Token::Text(inside) }, after)
            }
            _ if is_word(first) || first == '-' => {
                let after = rest[first.len_utf8()..].trim_start_matches(is_word);
                (Token::Word(rest[..rest.len() - after.len()].to_owned()), after)
            }
            _ => {
                let sign = ["<>", "!=", "=", "(", ")", ","].into_iter().find(|sign| rest.starts_with(sign));
                let sign = sign.ok_or_else(|| format!("unexpected character {first:?}"))?;
                (Token::Sign(sign), &rest[sign.len()..])
            }
        };
        tokens.push(token);
        rest = after.trim_start();
    }
    Ok(tokens)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '$')
}

/// The text in quotes, in which a doubled quote is one, and the rest after it.
fn quoted(text: &str, quote: char) -> Result<(String, &str), String> {
    let mut inside = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            inside.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            inside.push(quote);
        } else {
            return Ok((inside, &text[at + 1..]));
        }
    }
    Err(format!("a {quote} is not closed"))
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn condition(&mut self) -> Result<Filter, String> {
        self.list("or", Self::all, Filter::Or)
    }

    fn all(&mut self) -> Result<Filter, String> {
        self.list("and", Self::negated, Filter::And)
    }

    fn list(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Result<Filter, String>,
        all: fn(Vec<Filter>) -> Filter,
    ) -> Result<Filter, String> {
        let first = part(self)?;
        let mut parts = vec![first];
        while self.takes_word(word) {
            parts.push(part(self)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { all(parts) })
    }

    fn negated(&mut self) -> Result<Filter, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("the condition is nested too deeply".to_owned());
        }
        let filter = if self.takes_word("not") {
            Filter::Not(Box::new(self.negated()?))
        } else if self.takes_sign("(") {
            let inside = self.condition()?;
            self.sign(")")?;
            inside
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(filter)
    }

    fn test(&mut self) -> Result<Filter, String> {
        let name = match self.next() {
            Some(Token::Word(name) | Token::Quoted(name)) => name,
            Some(other) => return Err(format!("expected a column, found {}", other.show())),
            None => return Err("expected a column, found the end".to_owned()),
        };
        if self.takes_sign("=") {
            return Ok(Filter::In(name, vec![self.literal()?]));
        }
        if self.takes_sign("<>") || self.takes_sign("!=") {
            return Ok(Filter::Not(Box::new(Filter::In(name, vec![self.literal()?]))));
        }
        if self.takes_word("is") {
            let negated = self.takes_word("not");
            if !self.takes_word("null") {
                return Err("expected null or not null after is".to_owned());
            }
            return Ok(negate(negated, Filter::IsNull(name)));
        }
        let negated = self.takes_word("not");
        if self.takes_word("in") {
            self.sign("(")?;
            let mut values = vec![self.literal()?];
            while self.takes_sign(",") {
                values.push(self.literal()?);
            }
            self.sign(")")?;
            return Ok(negate(negated, Filter::In(name, values)));
        }
        Err(format!("expected =, <>, in or is after {name:?}"))
    }

    fn literal(&mut self) -> Result<String, String> {
        match self.next() {
            Some(Token::Text(text)) => Ok(text),
            Some(Token::Word(word)) if matches!(&*word.to_lowercase(), "true" | "false") => Ok(word.to_lowercase()),
            Some(Token::Word(word)) if word.parse::<f64>().is_ok() => Ok(word),
            Some(other) => Err(format!("expected a value, found {}", other.show())),
            None => Err("expected a value, found the end".to_owned()),
        }
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.at += 1;
        token
    }

    fn takes_word(&mut self, wanted: &str) -> bool {
        let takes = matches!(self.peek(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(wanted));
        self.at += usize::from(takes);
        takes
    }

    fn takes_sign(&mut self, wanted: &str) -> bool {
        let takes = matches!(self.peek(), Some(Token::Sign(sign)) if *sign == wanted);
        self.at += usize::from(takes);
        takes
    }

    fn sign(&mut self, wanted: &str) -> Result<(), String> {
        if self.takes_sign(wanted) { Ok(()) } else { Err(format!("expected {wanted:?}")) }
    }
}

fn negate(negated: bool, filter: Filter) -> Filter {
    if negated { Filter::Not(Box::new(filter)) } else { filter }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// In one line, with parentheses around everything.
    fn show(filter: &Filter) -> String {
        let list = |parts: &[Filter], word: &str| parts.iter().map(show).collect::<Vec<_>>().join(word);
        match filter {
            Filter::In(name, values) => format!("{name}∈{}", values.join("|")),
            Filter::IsNull(name) => format!("{name}=∅"),
            Filter::And(parts) => format!("({})", list(parts, " ∧ ")),
            Filter::Or(parts) => format!("({})", list(parts, " ∨ ")),
            Filter::Not(part) => format!("¬{}", show(part)),
        }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(parse_filter(text).as_ref().map(show), Ok(expected.to_owned()), "{text}");
    }

    #[test]
    fn conditions_are_parsed_as_in_sql() {
        check("type = 'internal'", "type∈internal");
        check("a.b in ('x', 'it''s', 5) AND NOT c IS NULL", "(a.b∈x|it's|5 ∧ ¬c=∅)");
        check("a = 1 or b <> -2 and c != TRUE", "(a∈1 ∨ (¬b∈-2 ∧ ¬c∈true))");
        check("not (a is null or \"Odd \"\"name\" is not null)", "¬(a=∅ ∨ ¬Odd \"name=∅)");
        check("a not in ('', 'é')", "¬a∈|é");
    }

    #[test]
    fn syntax_errors_are_reported() {
        for (text, expected) in [
            ("", "expected a column, found the end"),
            ("a", "expected =, <>, in or is after \"a\""),
            ("a = ", "expected a value, found the end"),
            ("a = b", "expected a value, found \"b\""),
            ("a = 'x", "a ' is not closed"),
            ("a = 'x' b", "unexpected \"b\""),
            ("(a = 1", "expected \")\""),
            ("a is 5", "expected null or not null after is"),
            ("a > 5", "unexpected character '>'"),
        ] {
            assert_eq!(parse_filter(text), Err(expected.to_owned()), "{text}");
        }
        assert!(parse_filter(&"(".repeat(1000)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[a-z'\"()=<>!, é0-9.-]{0,40}") {
            let _ = parse_filter(&text);
        }
    }
}
