//! Everything that commands print: text, or with `--json` one document on stdout and text on stderr. Names, errors and remedies come from databases and files, so control and bidirectional
//! characters are escaped here, for all commands. `tests/tidy.rs` allows no other place to print.

use crate::diagnostic::{Diagnostic, DiagnosticDocument, diagnostic};
use crate::model::printable;
use clap::Args;
use serde::Serialize;
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether output was lost for another reason than a reader that has seen enough.
static IS_OUTPUT_LOST: AtomicBool = AtomicBool::new(false);

/// Whether stdout gets one JSON document.
static IS_JSON: AtomicBool = AtomicBool::new(false);

#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Format {
    /// Print one JSON document instead of text. An error is one, too, with its code.
    #[arg(long)]
    pub(super) json: bool,
}

/// An outcome that is no more than a sentence.
#[derive(Serialize)]
struct Outcome<'a> {
    result: &'a str,
    /// Whether what was asked for is done.
    is_done: bool,
}

/// The document of a command that failed.
#[derive(Serialize)]
struct Failure<'a> {
    error: DiagnosticDocument<'a>,
}

/// Chooses the format, once and before anything is printed.
pub(super) fn begin(Format { json }: Format) {
    IS_JSON.store(json, Ordering::Relaxed);
}

pub(super) fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// Prints text and a line break.
pub(super) fn line(text: impl Display) {
    part(format_args!("{text}\n"));
}

/// Prints text without a line break.
pub(super) fn part(text: impl Display) {
    let text = printable(&text.to_string()).into_owned();
    if is_json() { print(std::io::stderr(), &text) } else { print(std::io::stdout(), &text) }
}

/// Prints the result of a command: the text, or the document. A command has one result.
pub(super) fn result(text: impl Display, document: &impl Serialize) -> Result<(), Diagnostic> {
    if is_json() {
        return json(document);
    }
    let text = text.to_string();
    line(text.strip_suffix('\n').unwrap_or(&text));
    Ok(())
}

/// Prints a result that is no more than a sentence.
pub(super) fn outcome(text: impl Display, is_done: bool) -> Result<(), Diagnostic> {
    let text = text.to_string();
    result(&text, &Outcome { result: &text, is_done })
}

fn json(document: &impl Serialize) -> Result<(), Diagnostic> {
    let text = serde_json::to_string_pretty(document).map_err(|error| diagnostic!("{error}"))?;
    print(std::io::stdout(), &format!("{}\n", printable(&text)));
    Ok(())
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

/// Prints the error that ends a command: to stderr, and as the document.
pub(super) fn failure(diagnostic: &Diagnostic) {
    error(diagnostic);
    if is_json() {
        // A document of texts can be written.
        let _ = json(&Failure { error: diagnostic.document() });
    }
}

/// Prints an error to stderr.
pub(super) fn error(diagnostic: &Diagnostic) {
    let colored = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let label = diagnostic.label();
    let label = if colored { format!("\x1b[1;31m{label}\x1b[0m") } else { label };
    // It has escaped its texts, and keeps its colours.
    print(std::io::stderr(), &format!("{label}: {}\n", diagnostic.render(colored)));
}
