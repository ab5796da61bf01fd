//! Questions on the terminal.

use super::output;
use crate::diagnostic::{Diagnostic, diagnostic};
use std::io::{BufRead, IsTerminal};

/// Whether a person can answer: both ends are terminals.
pub(super) fn is_possible() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Asks for a line. An empty answer means `default`.
pub(super) fn ask(question: &str, default: &str) -> Result<String, Diagnostic> {
    let shown = if default.is_empty() { String::new() } else { format!(" [{default}]") };
    output::part(format_args!("{question}{shown}: "));
    let answer = read_answer()?;
    Ok(if answer.is_empty() { default.to_owned() } else { answer })
}

/// The next line of the terminal, without the blanks around it.
pub(super) fn read_answer() -> Result<String, Diagnostic> {
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    match read {
        Ok(0) => Err(diagnostic!("nothing was done: the terminal was closed")),
        Ok(_) => Ok(answer.trim().to_owned()),
        Err(error) => Err(diagnostic!("cannot read the answer: {error}")),
    }
}
