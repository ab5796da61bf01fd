//! How a failed command explains itself: the message, the place in the file with the lines around it, and the fix.

use crate::model::{Code, CommandFault, printable, printable_line};
use serde::Serialize;
use std::fmt::Write as _;
use std::ops::Range;

/// A failure that ends a command.
#[derive(Clone, Debug)]
pub(crate) struct Diagnostic {
    pub(crate) message: String,
    /// The stable code, if it has a more exact one than [`CommandFault::Failed`].
    pub(crate) code: Option<Code>,
    pub(crate) excerpt: Option<Box<Excerpt>>,
    pub(crate) help: Option<String>,
    /// Further failures of the same kind, each with its own excerpt and fix.
    pub(crate) others: Vec<Diagnostic>,
}

/// A place in a file. The text holds no secret.
#[derive(Clone, Debug)]
pub(crate) struct Excerpt {
    pub(crate) file: String,
    pub(crate) text: String,
    /// In bytes. Only the part in its first line is underlined.
    pub(crate) span: Range<usize>,
}

/// A [`Diagnostic`] without an excerpt: `diagnostic!("cannot {what}")`, or with a fix `diagnostic!(help = "...", "...")`.
macro_rules! diagnostic {
    (help = $help:expr, $($message:tt)+) => {
        $crate::diagnostic::Diagnostic { help: Some($help.into()), ..$crate::diagnostic::diagnostic!($($message)+) }
    };
    ($($message:tt)+) => {
        $crate::diagnostic::Diagnostic {
            message: format!($($message)+),
            code: None,
            excerpt: None,
            help: None,
            others: Vec::new(),
        }
    };
}
pub(crate) use diagnostic;

const BOLD_RED: &str = "\x1b[1;31m";
const BOLD_BLUE: &str = "\x1b[1;34m";
const BOLD: &str = "\x1b[1m";

/// A [`Diagnostic`] as JSON.
#[derive(Serialize)]
pub(crate) struct DiagnosticDocument<'a> {
    code: &'static str,
    message: &'a str,
    /// `file:line:column`.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    help: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<DiagnosticDocument<'a>>,
}

impl Diagnostic {
    pub(crate) fn with_code(self, code: impl Into<Code>) -> Diagnostic {
        Diagnostic { code: Some(code.into()), ..self }
    }

    /// Its label, with the code in rustc's form.
    pub(crate) fn label(&self) -> String {
        self.code.map_or_else(|| "error".to_owned(), |Code(code)| format!("error[{code}]"))
    }

    pub(crate) fn document(&self) -> DiagnosticDocument<'_> {
        DiagnosticDocument {
            code: self.code.unwrap_or_else(|| CommandFault::Failed.into()).0,
            message: &self.message,
            place: self.excerpt.as_ref().map(|excerpt| excerpt.place()),
            help: self.help.as_deref(),
            others: self.others.iter().map(Diagnostic::document).collect(),
        }
    }

    /// The message with its excerpt and fix, in rustc's form. Only its own colours reach the terminal.
    pub(crate) fn render(&self, colored: bool) -> String {
        let paint = |style: &str, text: &str| {
            if colored { format!("{style}{text}\x1b[0m") } else { text.to_owned() }
        };
        let mut out = printable(&self.message).into_owned();
        if let Some(excerpt) = &self.excerpt {
            excerpt.render(&mut out, &paint);
        }
        if let Some(help) = &self.help {
            let _ = write!(out, "\n  {}: {}", paint(BOLD, "help"), printable(help).replace('\n', "\n        "));
        }
        for other in &self.others {
            let _ = write!(out, "\n\n{}: {}", paint(BOLD_RED, &other.label()), other.render(colored));
        }
        out
    }

    /// The messages with their places and fixes on one line, without any line of a file: for a log.
    pub(crate) fn summary(&self) -> String {
        let place = self.excerpt.as_ref().map(|excerpt| format!("{}: ", excerpt.place())).unwrap_or_default();
        let help = self.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
        let first = format!("{place}{}{help}", self.message);
        std::iter::once(first).chain(self.others.iter().map(Diagnostic::summary)).collect::<Vec<_>>().join("; ")
    }
}

impl Excerpt {
    /// `file:line:column`.
    pub(crate) fn place(&self) -> String {
        let before = &self.text[..self.text.floor_char_boundary(self.span.start)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let (line, column) = (before.matches('\n').count(), before[line_start..].chars().count());
        format!("{}:{}:{}", printable_line(&self.file), line + 1, column + 1)
    }

    fn render(&self, out: &mut String, paint: &impl Fn(&str, &str) -> String) {
        let start = self.text.floor_char_boundary(self.span.start);
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let (number, column) = (before.matches('\n').count(), before[line_start..].chars().count());
        let rest = self.text[start..].lines().next().unwrap_or_default();
        let marked = rest.get(..self.span.len()).unwrap_or(rest).trim_end().chars().count().max(1);
        let last = number + 2;
        let width = last.to_string().len();
        let gutter = |label: &str| paint(BOLD_BLUE, &format!("{label:>width$} |"));
        let arrow = paint(BOLD_BLUE, &format!("{:>width$}-->", ""));
        let _ = write!(out, "\n{arrow} {}\n{}", self.place(), gutter(""));
        for (index, line) in self.text.lines().enumerate().take(last).skip(number.saturating_sub(1)) {
            // One sign for each character, so that the mark stays below its text.
            let shown = line.replace(
                |c: char| c != '\t' && printable_line(c.encode_utf8(&mut [0; 4])).len() > c.len_utf8(),
                "\u{fffd}",
            );
            let _ = write!(out, "\n{} {shown}", gutter(&(index + 1).to_string()));
            if index == number {
                // Tabs stay, so that the mark is below its text whatever the terminal's tab stops are.
                let space: String = line.chars().take(column).map(|c| if c == '\t' { c } else { ' ' }).collect();
                let _ = write!(out, "\n{} {space}{}", gutter(""), paint(BOLD_RED, &"^".repeat(marked)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "source:\n  url: x\n\tslött: s\nusers:\n";

    fn rendered(text: &str, marked: &str, colored: bool) -> String {
        let start = text.find(marked).expect("part of the text");
        let span = start..start + marked.len();
        let excerpt = Excerpt { file: "c.yaml".to_owned(), text: text.to_owned(), span };
        Diagnostic { excerpt: Some(Box::new(excerpt)), ..diagnostic!(help = "did you mean slot?", "unknown {}", "key") }
            .render(colored)
    }

    #[test]
    fn the_mark_is_below_its_text_between_the_lines_around_it() {
        let expected = "unknown key\n --> c.yaml:3:2\n  |\n2 |   url: x\n3 | \tslött: s\n  | \t^^^^^\n\
                        4 | users:\n  help: did you mean slot?";
        assert_eq!(rendered(TEXT, "slött", false), expected);
        let many = "\n".repeat(98) + "a: b\nc: d\n";
        let expected = "unknown key\n   --> c.yaml:99:4\n    |\n 98 | \n 99 | a: b\n    |    ^\n100 | c: d\n";
        assert!(rendered(&many, "b", false).starts_with(expected));
    }

    #[test]
    fn a_section_is_marked_in_its_first_line_and_an_empty_file_at_its_start() {
        let section = rendered(TEXT, "source:\n  url: x", false);
        assert!(section.contains("\n1 | source:\n  | ^^^^^^^\n2 |   url: x\n  help"), "{section}");
        let empty = rendered("", "", false);
        assert_eq!(empty, "unknown key\n --> c.yaml:1:1\n  |\n  help: did you mean slot?");
    }

    #[test]
    fn colours_are_for_terminals_and_further_lines_of_help_are_indented() {
        let colored = rendered(TEXT, "url", true);
        assert!(colored.starts_with("unknown key\n\x1b[1;34m -->\x1b[0m c.yaml:2:3"), "{colored:?}");
        let plain = diagnostic!(help = "one\ntwo", "first\nsecond").render(false);
        assert_eq!(plain, "first\nsecond\n  help: one\n        two");
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        let error = diagnostic!(help = "run \u{1b}]0;x\u{7}", "cannot open \u{202e}gpj.exe\u{9b}2J\n line two");
        let expected = "cannot open \\u202egpj.exe\\u009b2J\n line two\n  help: run \\u001b]0;x\\u0007";
        assert_eq!(error.render(false), expected);
        let shown = rendered("a\u{1b}[2Jb: c\n", "b", false);
        assert!(shown.contains("1 | a\u{fffd}[2Jb: c\n  |      ^\n"), "{shown}");
    }

    #[test]
    fn a_summary_names_places_and_fixes_but_shows_no_line_of_the_file() {
        let excerpt = Excerpt { file: "c.yaml".to_owned(), text: TEXT.to_owned(), span: 11..14 };
        let first = Diagnostic { excerpt: Some(Box::new(excerpt)), ..diagnostic!(help = "use url", "unknown key") };
        let all = Diagnostic { others: vec![diagnostic!("second")], ..first };
        assert_eq!(all.summary(), "c.yaml:2:4: unknown key (use url); second");
    }

    #[test]
    fn several_failures_are_shown_one_after_the_other() {
        let others = vec![diagnostic!(help = "why", "second"), diagnostic!("third")];
        let all = Diagnostic { others, ..diagnostic!("first") }.render(false);
        assert_eq!(all, "first\n\nerror: second\n  help: why\n\nerror: third");
    }
}
