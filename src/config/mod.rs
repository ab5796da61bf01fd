//! The configuration: YAML files -> [`Config`].
//!
//! `files` reads them, `yaml` parses one into a tree with places, and the sections that are declared with `section!` (`top`,
//! `source`, `users`, `tenants`, ...) are read from the tree. `top` resolves them and checks the rules between them.
//! To add a key, declare it in the file of its section. A key at the top level is also a field of `Config`.

mod admin;
mod deletes;
mod error;
mod files;
mod filter;
mod hash;
mod interpolate;
mod kafka;
mod key_types;
mod limits;
mod mapping;
mod mask;
mod preset_file;
mod presets;
mod redaction;
mod reference;
mod registry;
mod schema;
mod section;
mod shared_role;
mod source;
mod spool;
mod target_template;
mod targets;
mod tenant_rows;
mod tenants;
mod top;
pub(crate) mod topics;
mod units;
mod users;
mod values;
mod yaml;

pub use admin::Admin;
pub(crate) use error::ConfigError;
pub use files::load;
pub(crate) use files::{Files, LoadedConfig, Place, is_in_environment, load_from, load_rows, reload_from};
pub use hash::{Hash, HashAlgorithm};
pub use interpolate::Env;
pub(crate) use interpolate::{from_environment, with_filler};
pub use kafka::Kafka;
#[cfg(feature = "kafka")]
pub(crate) use kafka::{KafkaFormat, PartitionBy};
pub(crate) use limits::MaxDeletes;
pub(crate) use mapping::{Family, read_mapping};
pub(crate) use preset_file::About;
pub(crate) use preset_file::UnknownPreset;
pub use presets::{PRESETS, Preset};
pub(crate) use reference::reference;
#[cfg(feature = "kafka")]
pub(crate) use registry::{KafkaEncoding, Registry};
pub(crate) use schema::{json_schema, preset_schema};
pub(crate) use shared_role::ServerName;
pub use source::{Publish, Source};
pub use spool::Spool;
pub use targets::{ShareRole, Targets};
pub(crate) use tenant_rows::{RowFault, TenantRows, WithRows};
pub use tenants::{Tenant, TenantTable};
pub(crate) use top::LogFormat;
pub use top::{Config, OnSlotLoss, parse};
pub use topics::Topics;
#[cfg(feature = "kafka")]
pub(crate) use topics::{TOPICS_REMEDY, TopicsError};
pub(crate) use units::parse_duration;

#[cfg(test)]
mod tests;
