//! The faults of a file: what is wrong, where, and what to write instead. Values that may be secrets are never shown.

use super::mask::{is_harmless, mask};
use super::yaml::{Kind, Node};
use crate::diagnostic::{Diagnostic, Excerpt, diagnostic};
use crate::model::CommandFault;
use std::fmt;
use std::ops::Range;

/// Longer values are not repeated in a message.
const MAX_SHOWN_VALUE: usize = 40;

/// Everything that is wrong with a configuration, in the order of the file. There is at least one fault.
#[derive(Debug)]
pub struct ConfigError(Vec<Diagnostic>);

/// A fault before its file is known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) help: Option<String>,
    pub(super) span: Range<usize>,
    /// Another place that belongs to the fault.
    pub(super) other: Option<Range<usize>>,
}

impl Fault {
    pub(super) fn new(span: &Range<usize>, message: impl Into<String>) -> Fault {
        Fault { message: message.into(), help: None, span: span.clone(), other: None }
    }

    /// A value that its key does not accept. It is shown as the file has it, without the variables' values.
    pub(super) fn invalid(node: &Node, path: &str) -> Fault {
        let shown = match &node.kind {
            Kind::Scalar(text) if text.len() <= MAX_SHOWN_VALUE && is_harmless(path, text) => format!(" {text:?}"),
            _ => String::new(),
        };
        Fault::new(&node.span, format!("invalid value{shown} for {path}"))
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Fault {
        self.help = Some(help.into());
        self
    }

    /// Names the place of what was there first.
    pub(super) fn first_at(mut self, span: &Range<usize>) -> Fault {
        self.other = Some(span.clone());
        self
    }

    /// `masked` is the file's text without its secrets.
    fn in_file(self, name: &str, masked: &str) -> Diagnostic {
        let excerpt = |span| Excerpt { file: name.to_owned(), text: masked.to_owned(), span };
        let first = self.other.map(|span| format!("the first one is at {}", excerpt(span).place()));
        let help: Vec<String> = self.help.into_iter().chain(first).collect();
        Diagnostic {
            excerpt: Some(Box::new(excerpt(self.span))),
            help: (!help.is_empty()).then(|| help.join("\n")),
            ..diagnostic!("{}", self.message)
        }
    }
}

impl ConfigError {
    /// The faults of one file.
    pub(super) fn in_file(faults: Vec<Fault>, name: &str, text: &str) -> ConfigError {
        let masked = mask(text);
        ConfigError(faults.into_iter().map(|fault| fault.in_file(name, &masked)).collect())
    }

    /// The file cannot be read.
    pub(super) fn unreadable(name: &str, error: &std::io::Error) -> ConfigError {
        ConfigError(vec![diagnostic!(
            help = "name the file with -c or USERS_SYNC_CONFIG; `users-sync init` writes one",
            "cannot read the configuration {name}: {error}"
        )])
    }

    /// A fault of the file as a whole.
    pub(super) fn in_whole(name: &str, message: &str) -> ConfigError {
        ConfigError(vec![diagnostic!("{name}: {message}")])
    }

    /// Adds the faults of another file.
    pub(super) fn and(mut self, other: ConfigError) -> ConfigError {
        self.0.extend(other.0);
        self
    }

    /// How to fix the first fault.
    pub fn remedy(&self) -> Option<&str> {
        self.0.first()?.help.as_deref()
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: Vec<&str> = self.0.iter().map(|fault| fault.message.as_str()).collect();
        f.write_str(&messages.join("; "))
    }
}

impl From<ConfigError> for Diagnostic {
    fn from(error: ConfigError) -> Diagnostic {
        let mut faults = error.0.into_iter().map(|fault| fault.with_code(CommandFault::Configuration));
        let first = faults.next().unwrap_or_else(|| diagnostic!("the configuration is invalid"));
        Diagnostic { others: faults.collect(), ..first }
    }
}
