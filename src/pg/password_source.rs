//! Where a password comes from that is not in the URL. Pure.

use std::fmt;
use std::path::PathBuf;

/// Where the password of a URL comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordSource {
    /// A file in the format of libpq's (manual: "The Password File").
    File(PathBuf),
    /// A command that prints it.
    Command(PasswordCommand),
}

/// A program and its arguments. `{host}`, `{port}`, `{user}` and `{database}` in an argument stand for those of the URL.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordCommand {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
}

impl fmt::Debug for PasswordCommand {
    /// Without the arguments, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordCommand").field("program", &self.program).finish_non_exhaustive()
    }
}

impl PasswordCommand {
    /// The first text is the program; `None` if there is none.
    pub fn new(mut words: Vec<String>) -> Option<PasswordCommand> {
        if words.first().is_none_or(String::is_empty) {
            return None;
        }
        let program = words.remove(0);
        Some(PasswordCommand { program, arguments: words })
    }
}
