//! The configuration: the YAML file, parsed (`raw`), then resolved and checked ([`Config`]).

mod error;
mod filter;
mod interpolate;
mod presets;
mod raw;
mod resolve;
mod schema;
mod section;
mod settings;
mod units;
mod users;
mod values;

pub use error::ConfigError;
pub use interpolate::{InterpolationError, Surroundings};
pub use presets::{About, PRESETS, Preset};
pub use schema::{json_schema, preset_schema};
pub use settings::{Config, Limits, MaxDeletes, OnSlotLoss, Publish, Source, Tenant};
pub use users::Family;

use error::Fault;
use std::path::Path;

/// Reads a configuration file. Files that it names with `${file:...}` are looked for beside it.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::unreadable(&name, &error))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let from = Surroundings {
        variable: &|name| std::env::var(name).ok(),
        file: &|file| std::fs::read_to_string(directory.join(file)),
    };
    parse(&name, &text, &from)
}

/// Reads a configuration's text. `name` is what errors call it.
pub fn parse(name: &str, text: &str, from: &Surroundings<'_>) -> Result<Config, ConfigError> {
    let root = raw::parse_yaml(text).map_err(|error| {
        Fault::new(&error.span, format!("this is not YAML: {}", error.message))
            .help("look at the indentation and the quotes there, and just before")
    });
    root.and_then(|root| resolve::resolve(&root, from)).map_err(|fault| fault.in_file(name, text))
}

#[cfg(test)]
mod tests;
