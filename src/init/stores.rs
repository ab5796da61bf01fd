//! Recognises auth stores by their tables.

use crate::config::{About, Family, PRESETS, Preset};
use crate::map::Rules;
use crate::model::TableName;
use crate::replicator::source::mapping::{MappedRelation, compile_current};
use crate::snapshot::{read_relation, resolve_family};
use tokio_postgres::{Client, Error};

/// An auth store whose tables the source has.
pub(crate) struct Store {
    /// The value of `users.preset`.
    pub(crate) preset: &'static str,
    /// What the preset is for, in one line.
    pub(crate) about: String,
    /// The mapping of the preset, for these tables.
    pub(crate) rules: Rules,
    pub(crate) mapped: MappedRelation,
    /// Number of columns by which it is recognised.
    pub(crate) required: usize,
}

/// The stores whose tables the source has, the most specific first. Reads the catalog only.
pub(crate) async fn recognize(client: &Client) -> Result<Vec<Store>, Error> {
    let mut stores = Vec::new();
    for preset in PRESETS {
        stores.extend(fitting(client, preset).await?);
    }
    stores.sort_by_key(|store| std::cmp::Reverse(store.required));
    Ok(stores)
}

/// The store of a preset, if the mapping fits the source.
async fn fitting(client: &Client, preset: &'static Preset) -> Result<Option<Store>, Error> {
    let families = preset.families();
    let Some(found) = resolve_family(client, &families).await? else { return Ok(None) };
    let rules = found.rules;
    let About { about, signs, .. } = preset.about();
    if !has_columns(client, &rules.table, &signs).await? {
        return Ok(None);
    }
    // A query that refers to missing tables is an error of the server: the source is another store's.
    let Ok(mapped) = compile_current(client, &rules).await else { return Ok(None) };
    let of_family = families.iter().find(|family: &&Family| family.rules.table == rules.table);
    let signs = signs.len() + of_family.map_or(0, |family| family.has.len());
    let joined = rules.query.as_ref().map_or(0, |query| query.watch.len());
    let required = rules.required_columns().len() + signs + joined;
    Ok(Some(Store { preset: preset.name, about, rules, mapped, required }))
}

async fn has_columns(client: &Client, table: &TableName, names: &[String]) -> Result<bool, Error> {
    let Some(relation) = read_relation(client, table).await? else { return Ok(false) };
    Ok(names.iter().all(|name| relation.columns.iter().any(|column| column.name == *name)))
}
