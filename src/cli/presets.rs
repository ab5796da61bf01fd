//! `presets`: lists the presets, or prints one to copy.

use super::output::{self, Format};
use crate::cli::exit::ExitCode;
use crate::config::{About, PRESETS, Preset, UnknownPreset};
use crate::diagnostic::{Diagnostic, diagnostic};
use clap::Args;
use serde::Serialize;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Preset to print. Default: list all of them.
    name: Option<String>,
    #[command(flatten)]
    pub(super) format: Format,
}

/// A preset as JSON.
#[derive(Serialize)]
struct Shown {
    name: &'static str,
    about: String,
    verified: String,
    /// The file, if one preset was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    yaml: Option<&'static str>,
}

impl Shown {
    fn of(preset: &Preset) -> Shown {
        let About { about, verified, .. } = preset.about();
        Shown { name: preset.name, about, verified, yaml: None }
    }
}

pub(super) fn execute(arguments: &Arguments) -> Result<ExitCode, Diagnostic> {
    let Some(name) = &arguments.name else {
        let shown: Vec<Shown> = PRESETS.iter().map(Shown::of).collect();
        output::result(list(), &shown)?;
        return Ok(ExitCode::SUCCESS);
    };
    let preset = PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| {
        let UnknownPreset { message, help } = UnknownPreset::of(name);
        diagnostic!(help = help, "{message}")
    })?;
    output::result(preset.yaml, &Shown { yaml: Some(preset.yaml), ..Shown::of(preset) })?;
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
