//! The configuration: the YAML file, parsed (`raw`), then resolved and checked ([`Config`]).

mod admin;
mod error;
mod files;
mod filter;
mod interpolate;
mod kafka;
mod presets;
mod raw;
mod resolve;
mod schema;
mod section;
mod settings;
mod tenants;
pub(crate) mod topics;
mod units;
mod users;
mod values;

pub use error::ConfigError;
pub use files::Files;
pub use interpolate::{InterpolationError, Surroundings};
pub use presets::{About, PRESETS, Preset};
pub use schema::{json_schema, preset_schema};
pub use settings::{
    Admin, Config, Kafka, KafkaFormat, Limits, LogFormat, MaxDeletes, OnSlotLoss, Publish, Source, Tenant,
};
pub use topics::{Topics, TopicsError};
pub(crate) use units::parse_duration;
pub use users::Family;

use error::Fault;
use std::path::Path;

/// Reads a configuration file and those that it includes. Files that one names with `${file:...}` are looked for beside it.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    Ok(load_with_files(path)?.0)
}

/// The same, with what it takes to notice that it has changed.
pub fn load_with_files(path: &Path) -> Result<(Config, Files), ConfigError> {
    files::load(path)
}

/// A text with the environment's variables put in, as in the file.
pub fn from_environment(text: &str) -> Result<String, InterpolationError> {
    let from = Surroundings { variable: &|name| std::env::var(name).ok(), file: &|file| std::fs::read_to_string(file) };
    interpolate::interpolate(text, &from)
}

/// Reads a configuration's text. `name` is what errors call it.
pub fn parse(name: &str, text: &str, from: &Surroundings<'_>) -> Result<Config, ConfigError> {
    let root = raw::parse_yaml(text).map_err(not_yaml);
    root.and_then(|root| resolve::resolve(&root, from)).map_err(|fault| fault.in_file(name, text))
}

fn not_yaml(error: raw::Malformed) -> Fault {
    Fault::new(&error.span, format!("this is not YAML: {}", error.message))
        .help("look at the indentation and the quotes there, and just before")
}

#[cfg(test)]
mod tests;
