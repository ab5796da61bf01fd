//! The configuration: the YAML file, parsed (`raw`), then resolved and checked ([`Config`]).

mod settings;

pub use settings::{Config, Limits, MaxDeletes, OnSlotLoss, Publish, Source, Tenant};
