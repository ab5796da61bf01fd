//! Everything that commands print. Names, errors and remedies come from databases and files, so control and bidirectional
//! characters are escaped here, for all commands. `tests/tidy.rs` allows no other place to print.

use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::printable;
use serde::Serialize;
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether output was lost for another reason than a reader that has seen enough.
static IS_OUTPUT_LOST: AtomicBool = AtomicBool::new(false);

/// Prints text and a line break.
pub(super) fn line(text: impl Display) {
    print(std::io::stdout(), &format!("{}\n", printable(&text.to_string())));
}

/// Prints one JSON document.
pub(super) fn json(value: &impl Serialize) -> Result<(), Diagnostic> {
    line(serde_json::to_string_pretty(value).map_err(|error| diagnostic!("{error}"))?);
    Ok(())
}

/// Prints text without a line break.
pub(super) fn part(text: impl Display) {
    print(std::io::stdout(), &printable(&text.to_string()));
}

/// Prints text and a line break to stderr.
pub(super) fn notice(text: impl Display) {
    print(std::io::stderr(), &format!("{}\n", printable(&text.to_string())));
}

/// Whether output was lost, for example on a full disk.
pub(super) fn is_lost() -> bool {
    IS_OUTPUT_LOST.load(Ordering::Relaxed)
}

/// A closed pipe does not end a command: `setup --apply | head` would leave its work half done.
fn print(mut to: impl Write, text: &str) {
    let written = to.write_all(text.as_bytes()).and_then(|()| to.flush());
    if written.is_err_and(|error| error.kind() != ErrorKind::BrokenPipe) {
        IS_OUTPUT_LOST.store(true, Ordering::Relaxed);
    }
}

/// Prints the error that ends a command to stderr.
pub(super) fn error(diagnostic: &Diagnostic) {
    let colored = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let label = if colored { "\x1b[1;31merror\x1b[0m" } else { "error" };
    // It has escaped its texts, and keeps its colours.
    print(std::io::stderr(), &format!("{label}: {}\n", diagnostic.render(colored)));
}
