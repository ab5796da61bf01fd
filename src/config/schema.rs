//! The configuration and the presets as JSON Schemas, for editors. Pure.

use super::preset_file::PresetFile;
use super::top::File;
use schemars::{JsonSchema, SchemaGenerator};

/// The schema of the configuration.
pub(crate) fn json_schema() -> String {
    schema::<File>("users-sync")
}

/// The schema of a preset.
pub(crate) fn preset_schema() -> String {
    schema::<PresetFile>("users-sync preset")
}

fn schema<T: JsonSchema>(title: &str) -> String {
    let mut schema = SchemaGenerator::default().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    serde_json::to_string_pretty(&schema).unwrap_or_default()
}
