//! The question on the terminal before something is deleted.

use super::output;
use crate::diagnostic::{Diagnostic, diagnostic};
use std::io::{BufRead, IsTerminal, Write};

/// Asks on the terminal for a yes.
pub(super) fn confirm(question: &str) -> Result<bool, Diagnostic> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(diagnostic!(
            help = "pass --yes to skip the confirmation",
            "nothing was done: there is no terminal to confirm on"
        ));
    }
    output::part(format_args!("{question} Type yes: "));
    let mut answer = String::new();
    let read = std::io::stdout().flush().and_then(|()| stdin.lock().read_line(&mut answer));
    read.map_err(|error| diagnostic!("cannot read the answer: {error}"))?;
    Ok(answer.trim() == "yes")
}
