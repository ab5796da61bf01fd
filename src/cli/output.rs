//! Everything that commands print. Names, errors and remedies come from databases and files, so control and bidirectional
//! characters are escaped here, for all commands. `tests/tidy.rs` allows no other place to print.

use crate::diagnostic::Diagnostic;
use crate::model::printable;
use std::fmt::Display;
use std::io::IsTerminal;

/// Prints text and a line break.
pub(super) fn line(text: impl Display) {
    println!("{}", printable(&text.to_string()));
}

/// Prints text without a line break.
pub(super) fn part(text: impl Display) {
    print!("{}", printable(&text.to_string()));
}

/// Prints text and a line break to stderr.
pub(super) fn notice(text: impl Display) {
    eprintln!("{}", printable(&text.to_string()));
}

/// Prints the error that ends a command to stderr.
pub(super) fn error(diagnostic: &Diagnostic) {
    let colored = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let label = if colored { "\x1b[1;31merror\x1b[0m" } else { "error" };
    // It has escaped its texts, and keeps its colours.
    eprintln!("{label}: {}", diagnostic.render(colored));
}
