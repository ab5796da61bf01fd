//! Asks for a password at the terminal, without showing it.

use super::output;
use crate::diagnostic::{Diagnostic, diagnostic};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{BufRead, IsTerminal};

/// Shows what is typed again, also after an error.
struct Shown {
    before: Termios,
}

impl Drop for Shown {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
        output::notice("");
    }
}

/// Reads the password of a role from the terminal. `None` without a terminal, or for an empty answer.
pub(super) fn ask_password(role: &str) -> Result<Option<String>, Diagnostic> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(None);
    }
    let failed = |error: &dyn std::fmt::Display| diagnostic!("cannot read the password: {error}");
    output::part(format_args!("Password of {role} (empty for none): "));
    let before = tcgetattr(&stdin).map_err(|error| failed(&error))?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    let shown = Shown { before };
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(|error| failed(&error))?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(|error| failed(&error))?;
    drop(shown);
    let password = answer.trim_end_matches(['\r', '\n']);
    Ok((!password.is_empty()).then(|| password.to_owned()))
}
