//! Compares the preset with the auth store whose tables the source has.

use super::finding::{Finding, Subject};
use crate::config::Config;
use crate::init::{Store, recognize};
use crate::model::CheckFinding;
use crate::pg::connect;
use crate::snapshot::read_relation;

/// The finding for a mapping that is made for another store; `None` too if the source cannot be inspected, which other
/// findings say.
pub(super) async fn look(config: &Config) -> Option<Finding> {
    let client = connect(&config.source.url).await.ok()?;
    let preset = config.families.first().and_then(|family| family.preset.as_deref());
    let has_table = match preset {
        // A mapping by hand is intended, unless its table is missing.
        None => read_relation(&client, &config.users.table).await.ok()?.is_some(),
        Some(_) => false,
    };
    let stores = if has_table { Vec::new() } else { recognize(&client).await.ok()? };
    client.close().await;
    finding(preset, &stores)
}

/// `stores` has the most specific first.
fn finding(preset: Option<&str>, stores: &[Store]) -> Option<Finding> {
    let best = stores.first()?;
    let own = preset.and_then(|preset| stores.iter().find(|store| store.preset == preset));
    // Two stores with tables of their own can share a database.
    if own.is_some_and(|own| own.required == best.required || own.rules.table != best.rules.table) {
        return None;
    }
    let message = match preset {
        Some(preset) => {
            format!("the tables look like those of another store than that of preset {preset}: {}", best.about)
        }
        None => format!("the tables look like those of a store that has a preset: {}", best.about),
    };
    Some(Finding::warning(
        Subject::Source,
        CheckFinding::PresetFits,
        message,
        format!("users: {{preset: {}}}", best.preset),
    ))
}
