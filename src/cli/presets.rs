//! `presets`: lists the presets, or prints one to copy.

use super::output;
use crate::config::{About, PRESETS};
use crate::diagnostic::{Diagnostic, diagnostic};
use clap::Args;
use std::process::ExitCode;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Preset to print. Default: list all of them.
    name: Option<String>,
}

pub(super) fn execute(arguments: &Arguments) -> Result<ExitCode, Diagnostic> {
    let Some(name) = &arguments.name else {
        output::line(list());
        return Ok(ExitCode::SUCCESS);
    };
    let preset = PRESETS
        .iter()
        .find(|preset| preset.name == name)
        .ok_or_else(|| diagnostic!(help = "`users-sync presets` lists them", "unknown preset {name}"))?;
    output::part(preset.yaml);
    Ok(ExitCode::SUCCESS)
}

fn list() -> String {
    let mut out = String::new();
    for preset in PRESETS {
        let About { about, verified, .. } = preset.about();
        let verified = match verified.strip_prefix("no: ") {
            Some(why) => format!("no ({why})"),
            None => format!("on {verified}"),
        };
        out.push_str(&format!("{:12} {about}\n{:12} verified: {verified}\n", preset.name, ""));
    }
    out.push_str("\nUse one with `users: {preset: NAME}`; every other key overrides the preset's.");
    out
}
