//! The key `deletes`: a mode, or a section with a mode. Pure.

use super::error::Fault;
use super::key_types::{Choice, DurationText};
use super::section::{KeyType, Nested, Reader, section};
use super::yaml::{Kind, Node};
use crate::model::Deletes;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::time::Duration;

section! {
    /// How deletes are applied.
    ///
    /// Either a mode alone, or a section:
    ///
    /// ```yaml
    /// deletes: {mode: soft, purge_after: 30d}
    /// ```
    pub(super) struct DeletesSection {
        /// What a delete at the source does to the row in the target.
        pub(super) mode: Deletes as Choice<Deletes>,
        /// Time after a soft delete at which the row is deleted permanently. Only with `mode: soft`.
        pub(super) purge_after: Option<Duration> as Option<DurationText>,
    }
}

/// A mode alone, or the section.
pub(super) struct ModeOrSection;

impl JsonSchema for ModeOrSection {
    fn schema_name() -> Cow<'static, str> {
        "DeletesOrSection".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let any = [generator.subschema_for::<Deletes>(), generator.subschema_for::<DeletesSection>()];
        json_schema!({ "anyOf": any })
    }
}

impl KeyType for ModeOrSection {
    type Value = DeletesSection;
    type Schema = ModeOrSection;

    fn expected() -> String {
        format!("{}, or a section", Choice::<Deletes>::expected())
    }

    fn nested() -> Option<Nested> {
        DeletesSection::nested()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<DeletesSection> {
        if !matches!(node.kind, Kind::Section(_)) {
            let mode = Choice::<Deletes>::read(node, path, reader)?;
            return Some(DeletesSection { mode, purge_after: None });
        }
        let deletes = DeletesSection::read(node, path, reader)?;
        if deletes.mode == Deletes::Hard && deletes.purge_after.is_some() {
            let fault = Fault::new(&node.span, "deletes.purge_after requires mode: soft");
            reader.push(fault.help("hard deletes leave nothing to be purged; remove purge_after"));
        }
        Some(deletes)
    }
}
