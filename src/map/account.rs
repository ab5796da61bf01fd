//! A true account of a compiled mapping: under which names each column leaves the source, and why the others stay. Pure.

use super::filter::Condition;
use super::plan::RowPlan;
use super::row_types::WithheldReason;
use super::value::{Form, Input, Text, TimeSources};
use crate::model::{ColumnIdx, Relation};
use serde::Serialize;

/// What becomes of a column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ColumnAccount {
    pub(crate) column: String,
    /// The columns of `users_sync` and the keys of `raw_json` that its value reaches, and `tenant key`. Empty if it stays.
    pub(crate) leaves_as: Vec<String>,
    /// Why it stays, or is not complete.
    pub(crate) stays: Option<String>,
}

impl ColumnAccount {
    pub(crate) fn staying(column: &str, why: &str) -> ColumnAccount {
        ColumnAccount { column: column.to_owned(), leaves_as: Vec::new(), stays: Some(why.to_owned()) }
    }

    /// `leaves as name, raw_json.display_name`, or `stays: its name looks like a secret`.
    pub(crate) fn describe(&self) -> String {
        let stays = self.stays.as_deref().unwrap_or_default();
        match (&self.leaves_as[..], stays) {
            ([], why) => format!("stays: {why}"),
            (leaves_as, "") => format!("leaves as {}", leaves_as.join(", ")),
            (leaves_as, without) => format!("leaves as {}, {without}", leaves_as.join(", ")),
        }
    }
}

impl RowPlan {
    /// What becomes of each column of the relation that the plan was compiled for.
    pub(crate) fn account(&self, relation: &Relation) -> Vec<ColumnAccount> {
        relation.indexed_columns().map(|(index, column)| self.account_of(index, &column.name)).collect()
    }

    fn account_of(&self, column: ColumnIdx, name: &str) -> ColumnAccount {
        let mut leaves_as = Vec::new();
        let text = |value: &Option<Text>| value.iter().flat_map(Text::carried).find_map(|input| part(input, column));
        let time = |value: &Option<TimeSources>| {
            let inputs = value.iter().flat_map(|sources| sources.0.iter().map(|(input, _)| input));
            inputs.into_iter().find_map(|input| part(input, column))
        };
        let id = self.id.carried().into_iter().find_map(|input| part(input, column));
        for (part, targets) in [
            (id, &["id", "raw_json.id"][..]),
            (text(&self.name), &["name", "raw_json.display_name"]),
            (text(&self.email), &["email", "raw_json.primary_email"]),
            (time(&self.created_at), &["created_at", "raw_json.signed_up_at_millis"]),
            (time(&self.updated_at), &["updated_at"]),
            (time(&self.deleted_at), &["deleted_at"]),
            (text(&self.tenant), &["tenant key"]),
        ] {
            if let Some(part) = part {
                leaves_as.extend(targets.iter().map(|target| format!("{target}{part}")));
            }
        }
        let raw = self.raw_json.column_named(name);
        if let Some(raw) = raw {
            leaves_as.push(format!("raw_json.{name}"));
            let cut: Vec<String> = raw.without.iter().map(|path| path.join(".")).collect();
            let stays = (!cut.is_empty()).then(|| format!("without {}, which users.exclude lists", cut.join(", ")));
            return ColumnAccount { column: name.to_owned(), leaves_as, stays };
        }
        let withheld = self.withheld.iter().find(|(withheld, _)| withheld == name).map(|(_, reason)| *reason);
        let stays = leaves_as.is_empty().then(|| {
            let also = if self.filter.as_ref().is_some_and(|filter| reads(filter, column)) {
                "; users.where reads it"
            } else {
                ""
            };
            format!("{}{also}", why(withheld.unwrap_or(WithheldReason::Replaced)))
        });
        ColumnAccount { column: name.to_owned(), leaves_as, stays }
    }
}

/// Which part of the column a value reads: empty for all of it.
fn part(input: &Input, column: ColumnIdx) -> Option<String> {
    if input.column != column {
        return None;
    }
    Some(match &input.form {
        Form::Json { path, .. } if !path.is_empty() => format!(" (its {})", path.join(".")),
        _ => String::new(),
    })
}

fn reads(filter: &Condition, column: ColumnIdx) -> bool {
    filter.inputs().iter().any(|input| input.column == column)
}

fn why(reason: WithheldReason) -> &'static str {
    match reason {
        WithheldReason::Excluded => "users.exclude lists it",
        WithheldReason::LooksSecret => "its name looks like a secret",
        WithheldReason::NotAllowed => "users.allow does not list it",
        WithheldReason::Replaced => "raw_json has a mapped value under its name",
    }
}
