//! The question on the terminal before something is deleted.

use super::dialogue::read_answer;
use super::output;
use crate::diagnostic::{Diagnostic, diagnostic};
use std::io::IsTerminal;

/// Asks on the terminal for a yes.
pub(super) fn confirm(question: &str) -> Result<bool, Diagnostic> {
    if !std::io::stdin().is_terminal() {
        return Err(diagnostic!(
            help = "pass --yes to skip the confirmation",
            "nothing was done: there is no terminal to confirm on"
        ));
    }
    output::part(format_args!("{question} Type yes: "));
    Ok(read_answer()? == "yes")
}
