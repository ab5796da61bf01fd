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
pub use files::{Files, load, load_with_files};
pub use interpolate::{Env, InterpolationError, from_environment};
pub use presets::{About, PRESETS, Preset};
pub use resolve::parse;
pub use schema::{json_schema, preset_schema};
pub use settings::{
    Admin, Config, Kafka, KafkaFormat, Limits, LogFormat, MaxDeletes, OnSlotLoss, Publish, Source, Tenant,
};
pub use topics::{Topics, TopicsError};
pub(crate) use units::parse_duration;
pub use users::Family;

#[cfg(test)]
mod tests;
