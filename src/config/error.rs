//! What is wrong with the file: what, where, and what to write instead. Never a value that may be a secret.

use crate::diagnostic::{Diagnostic, Excerpt, diagnostic};
use std::ops::Range;

/// One mistake in the configuration, with its place and its fix.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct ConfigError(Diagnostic);

/// A mistake before it is known in which file it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) help: Option<String>,
    pub(super) span: Range<usize>,
}

impl Fault {
    pub(super) fn new(span: &Range<usize>, message: impl Into<String>) -> Fault {
        Fault { message: message.into(), help: None, span: span.clone() }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Fault {
        self.help = Some(help.into());
        self
    }

    pub(super) fn in_file(self, name: &str, text: &str) -> ConfigError {
        let excerpt = Excerpt { file: name.to_owned(), text: mask_secrets(text), span: self.span };
        ConfigError(Diagnostic { message: self.message, excerpt: Some(excerpt), help: self.help })
    }
}

impl ConfigError {
    /// The file as a whole cannot be read.
    pub(super) fn unreadable(name: &str, error: &std::io::Error) -> ConfigError {
        ConfigError(diagnostic!(
            help = "name the file with -c; config/minimal.yaml is one to start from",
            "cannot read the configuration {name}: {error}"
        ))
    }

    /// Something about the file that is not at one place of it.
    pub(super) fn in_whole(name: &str, message: &str) -> ConfigError {
        ConfigError(diagnostic!("{name}: {message}"))
    }

    /// What to do about it.
    pub fn remedy(&self) -> Option<&str> {
        self.0.help.as_deref()
    }
}

impl From<ConfigError> for Diagnostic {
    fn from(error: ConfigError) -> Diagnostic {
        error.0
    }
}

/// The text with whatever may be a password overwritten, byte for byte, so that places in it stay the same: a password
/// that is not percent-encoded may hold anything, so the rest of its line goes.
fn mask_secrets(text: &str) -> String {
    text.split_inclusive('\n').map(mask_line).collect()
}

fn mask_line(line: &str) -> String {
    let lowercase = line.to_ascii_lowercase();
    let starts =
        ["://", "password", "token:", "token\":", "token':"].map(|sign| lowercase.find(sign).map(|at| at + sign.len()));
    let Some(start) = starts.into_iter().flatten().min() else { return line.to_owned() };
    let mask = |c: char| if c.is_whitespace() { c.to_string() } else { "*".repeat(c.len_utf8()) };
    line[..start].chars().map(String::from).chain(line[start..].chars().map(mask)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_and_nothing_moves() {
        for (line, expected) in [
            ("url: ${DB}\n", "url: ${DB}\n"),
            ("url: postgres://u:pw@h/db # a\n", "url: postgres://********* * *\n"),
            ("url: \"postgres://é\"", "url: \"postgres://***"),
            ("a: {token: hunter2}", "a: {token: ********"),
            ("{\"token\": \"x\"}", "{\"token\": ****"),
            ("url: user=u PASSWORD='hunter 2'", "url: user=u PASSWORD******** **"),
        ] {
            let masked = mask_secrets(line);
            assert_eq!(masked, expected);
            assert_eq!(masked.len(), line.len());
        }
    }
}
