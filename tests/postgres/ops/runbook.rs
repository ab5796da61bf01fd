//! The runbook covers every text that asks for a person: logged errors and warnings, findings, reasons and remedies.
//! The texts are extracted from the source, so a new text fails here until the runbook has it.

use super::read;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::path::Path;

/// The files whose every text is a finding, a reason or a remedy. Remedies are found in other files too.
const TEXTS: [&str; 20] = [
    "src/apply/assessment.rs",
    "src/apply/obstacle.rs",
    "src/apply/reject_reason.rs",
    "src/check/finding.rs",
    "src/check/identifiers.rs",
    "src/check/kafka.rs",
    "src/check/local.rs",
    "src/check/mod.rs",
    "src/check/source.rs",
    "src/check/state.rs",
    "src/check/target.rs",
    "src/check/tenant_keys.rs",
    "src/check/urls.rs",
    "src/config/shared_role.rs",
    "src/model/reason.rs",
    "src/model/user_counts.rs",
    "src/replicator/error.rs",
    "src/replicator/failure_policy.rs",
    "src/replicator/tee/error.rs",
    "src/replicator/tenant/outcome.rs",
];
const KAFKA: &str = "src/tee/kafka/failure.rs";

/// The tokens of a file before its tests.
fn tokens(path: &str) -> TokenStream {
    let text = read(path);
    let tests = ["#[cfg(test)]\nmod tests", "#[cfg(test)]\npub(crate) mod tests"];
    let end = tests.iter().filter_map(|start| text.find(start)).min().unwrap_or(text.len());
    let code = &text[..end];
    code.parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The string literals in the tokens, without doc comments.
fn literals(tokens: TokenStream) -> Vec<String> {
    tokens
        .into_iter()
        .flat_map(|token| match token {
            TokenTree::Group(group) if is_doc(&group) => Vec::new(),
            TokenTree::Group(group) => literals(group.stream()),
            TokenTree::Literal(literal) => text_of(&literal.to_string()).into_iter().collect(),
            _ => Vec::new(),
        })
        .collect()
}

fn is_doc(group: &proc_macro2::Group) -> bool {
    let first = group.stream().into_iter().next();
    group.delimiter() == Delimiter::Bracket && first.is_some_and(|first| first.to_string() == "doc")
}

/// The value of a plain string literal.
fn text_of(literal: &str) -> Option<String> {
    let inside = literal.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = String::new();
    let mut rest = inside.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        match rest.next()? {
            'n' => text.push('\n'),
            '\n' => while rest.next_if(|c| c.is_whitespace()).is_some() {},
            c => text.push(c),
        }
    }
    Some(text)
}

/// The message of each `tracing::error!` and `tracing::warn!`: its longest literal.
fn logged(tokens: TokenStream) -> Vec<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let words: Vec<String> = tokens.iter().map(ToString::to_string).collect();
    let calls = words.windows(5).zip(tokens.iter().skip(5)).filter(|(before, _)| {
        let [tracing, _, _, level, bang] = before else { return false };
        tracing == "tracing" && bang == "!" && ["error", "warn"].contains(&&**level)
    });
    let here = calls.filter_map(|(_, token)| match token {
        TokenTree::Group(group) => literals(group.stream()).into_iter().max_by_key(String::len),
        _ => None,
    });
    let here: Vec<String> = here.collect();
    let inside = tokens.into_iter().flat_map(|token| match token {
        TokenTree::Group(group) => logged(group.stream()),
        _ => Vec::new(),
    });
    here.into_iter().chain(inside.collect::<Vec<_>>()).collect()
}

/// The remedies: literals of a function `remedy`, of a constant `..._REMEDY`, and of what is assigned to `remedy`.
fn remedies(tokens: TokenStream) -> Vec<String> {
    let mut found = Vec::new();
    let mut tokens = tokens.into_iter().peekable();
    let mut is_function = false;
    while let Some(token) = tokens.next() {
        let word = token.to_string();
        let next = tokens.peek().map(ToString::to_string);
        let is_value = matches!(next.as_deref(), Some(":" | "=")) && (word == "remedy" || word.ends_with("_REMEDY"));
        if is_value || is_function && word == "remedy" {
            let ends = |token: &TokenTree| match token {
                TokenTree::Group(group) => is_function && group.delimiter() == Delimiter::Brace,
                token => !is_function && [",", ";"].contains(&&*token.to_string()),
            };
            let mut value = TokenStream::new();
            for token in tokens.by_ref() {
                let is_end = ends(&token);
                value.extend([token]);
                if is_end {
                    break;
                }
            }
            found.extend(literals(value));
        } else if let TokenTree::Group(group) = token {
            found.extend(remedies(group.stream()));
        }
        is_function = word == "fn";
    }
    found
}

/// The text with placeholders replaced by `…` and without formatting.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((_, after)) = after.split_once('}') else { break };
        out.push_str(before);
        out.push('…');
        rest = after;
    }
    out.push_str(rest);
    let words: Vec<&str> = out.split_whitespace().collect();
    words.join(" ").replace('`', "")
}

/// A text of three or more words, without the punctuation that joins it to others.
fn sentence(text: &str) -> Option<String> {
    let sentence = plain(text);
    let sentence = sentence.trim_matches(|c: char| "…;:,".contains(c) || c.is_whitespace());
    let words = sentence.split(' ').filter(|word| word.chars().any(char::is_alphabetic)).count();
    (words >= 3).then(|| sentence.to_owned())
}

/// The source files below a directory, without files of tests.
fn sources(under: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(under).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path.to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn every_error_finding_and_remedy_is_in_the_runbook() {
    let runbook = plain(&read("docs/RUNBOOK.md").replace("\\|", "|"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let name = |path: &String| Path::new(path).strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    let files: Vec<String> = files.iter().map(name).collect();
    let lines = files.iter().flat_map(|path| logged(tokens(path)).into_iter().map(move |text| (path.clone(), text)));
    let lines: Vec<_> = lines.collect();
    assert!(lines.len() > 30, "{lines:?}");
    let texts = TEXTS.into_iter().chain(cfg!(feature = "kafka").then_some(KAFKA));
    let texts = texts.flat_map(|path| {
        let texts = literals(tokens(path));
        assert!(!texts.is_empty(), "{path} has no text");
        texts.into_iter().map(move |text| (path.to_owned(), text))
    });
    // An answer of the HTTP API has its remedy beside it, for the program that sent the request.
    let with_remedies = files.iter().filter(|path| !path.starts_with("src/admin/"));
    let fixes = with_remedies.flat_map(|path| remedies(tokens(path)).into_iter().map(move |text| (path.clone(), text)));
    let fixes: Vec<_> = fixes.collect();
    assert!(fixes.len() > 30, "{fixes:?}");
    // A log message has a table row that begins with it.
    let lines = lines.into_iter().map(|(path, text)| (path, plain(&text)));
    let lines = lines.filter(|(_, text)| text.chars().any(char::is_alphabetic));
    let lines = lines.map(|(path, text)| (path, format!("| {text} |")));
    let missing: Vec<_> = lines
        .chain(texts.chain(fixes).filter_map(|(path, text)| Some((path, sentence(&text)?))))
        .filter(|(_, text)| !runbook.contains(text.as_str()))
        .map(|(path, text)| format!("{path}: {text}"))
        .collect();
    assert!(missing.is_empty(), "docs/RUNBOOK.md does not say what to do about\n{}", missing.join("\n"));
}

#[test]
fn texts_are_extracted_from_source_code() {
    let code = r#"
        /// A doc comment, which does not count.
        fn f() { if x { tracing::warn!(%a, slot = "s", "it is \
            {what} now"); } tracing::info!("not this"); g("one \"two\" three {}", 'c') }"#;
    let tokens: TokenStream = code.parse().unwrap();
    assert_eq!(logged(tokens.clone()), ["it is {what} now"]);
    assert_eq!(plain("it is {what} now"), "it is … now");
    let all = literals(tokens);
    assert_eq!(all.iter().filter_map(|text| sentence(text)).collect::<Vec<_>>(), ["it is … now", "one \"two\" three"]);
}

#[test]
fn remedies_are_found_wherever_they_are_written() {
    let code = r#"
        const SLOW_REMEDY: &str = "a constant is one"; const OTHER: &str = "another constant is none";
        fn f() { let remedy = "so is a variable"; g(S { what: "no remedy at all", remedy: h("a field, too"), x: "none" }) }
        fn remedy(x: u8) -> &'static str { match x { 1 => "what a function returns", _ => "in every case" } }"#;
    let expected =
        ["a constant is one", "so is a variable", "a field, too", "what a function returns", "in every case"];
    assert_eq!(remedies(code.parse().unwrap()), expected);
}
