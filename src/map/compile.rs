//! Rules -> `RowPlan`: what each value reads, which columns are exposed, which ones the decoder has to produce. Pure.

use super::column_name::optional;
use super::compile_error::CompileError;
use super::filter::Condition;
use super::identity::IdentityGap;
use super::json::{JsonKind, key};
use super::plan::RowPlan;
use super::raw_json::{RawColumn, RawJson, is_mapped_key};
use super::resolver::Resolver;
use super::row_types::WithheldReason;
use super::value::{Input, Text};
use super::{Rules, Value, looks_secret};
use crate::model::{ColumnIdx, Relation, TypeCatalog};
use std::sync::atomic::AtomicU64;

impl RowPlan {
    /// Compiles the rules for one relation version. The error lists every problem at once.
    pub fn compile(rules: &Rules, relation: &Relation, types: &TypeCatalog) -> Result<RowPlan, CompileError> {
        let mut resolver = Resolver::new(relation, types);
        let id = resolver.text("id", &rules.id);
        let mut text = |key, value: &Option<Value>| value.as_ref().map(|value| resolver.text(key, value));
        let tenant = text("tenant", &rules.tenant);
        let name = text("name", &rules.name);
        let email = text("email", &rules.email);
        let mut times = |key, value: &Option<Value>| value.as_ref().map(|value| resolver.times(key, value));
        let created_at = times("created_at", &rules.created_at);
        let updated_at = times("updated_at", &rules.updated_at);
        let deleted_at = times("deleted_at", &rules.deleted_at);
        let filter = rules.filter.as_ref().map(|filter| Condition::compile(filter, &mut resolver));
        let keys = rules.query.iter().flat_map(|query| &query.key);
        let keys: Vec<Input> = keys.filter_map(|column| resolver.input("key", column)).collect();
        let selection = Selection::of(rules, &mut resolver);
        for redaction in rules.redactions.all() {
            for (key, written) in redaction.columns() {
                let (name, is_optional) = optional(written);
                if resolver.position(name).is_some() || is_mapped_key(name) {
                    continue;
                }
                if resolver.json_path(name).is_some() {
                    resolver.path_of_tenant(&redaction.path, key, name);
                } else if !is_optional {
                    resolver.no_column_of_tenant(&redaction.path, key, name);
                }
            }
        }
        resolver.finish()?;

        let identity: Vec<&Input> = id.inputs().into_iter().chain(tenant.iter().flat_map(Text::inputs)).collect();
        let identity_gap = IdentityGap::of(&identity, relation);
        let texts = [&name, &email].into_iter().flatten().flat_map(Text::inputs);
        let times = [&created_at, &updated_at, &deleted_at].into_iter().flatten();
        let times = times.flat_map(|sources| sources.0.iter().map(|(input, _)| input));
        let conditions = filter.iter().flat_map(Condition::inputs);
        let inputs = identity.into_iter().chain(texts).chain(times).chain(conditions).chain(&keys);
        let inputs: Vec<ColumnIdx> = inputs.map(|input| input.column).collect();

        let (mut raw, mut exposed, mut withheld) = (Vec::new(), Vec::new(), Vec::new());
        let (mut decoded, mut decoded_columns) = (Vec::with_capacity(relation.columns.len()), Vec::new());
        for (column, described) in relation.indexed_columns() {
            let name = &described.name;
            let is_input = inputs.contains(&column);
            let reason = selection.withholds(name);
            if reason.is_none() {
                let kind = JsonKind::compile(described.type_oid, types);
                let without = selection.paths_in(name);
                raw.push(RawColumn { column, name: name.clone(), key: key(name), kind, without });
            }
            let is_decoded = is_input || reason.is_none();
            decoded.push(is_decoded);
            if is_decoded {
                decoded_columns.push(column);
            }
            match reason {
                // For example `id` read from `id`: it is exposed, as the mapped value.
                Some(WithheldReason::Replaced) if is_input => exposed.push(name.clone()),
                Some(reason) => withheld.push((name.clone(), reason)),
                None => exposed.push(name.clone()),
            }
        }
        let cast = raw.iter().filter(|raw| raw.kind.has_cast()).map(|raw| raw.column).collect();
        Ok(RowPlan {
            cast,
            id,
            tenant,
            name,
            email,
            created_at,
            updated_at,
            deleted_at,
            filter,
            key: keys,
            raw_json: RawJson::new(raw),
            redactions: rules.redactions.clone(),
            exposed,
            withheld,
            columns: relation.columns.iter().map(|column| column.name.clone()).collect(),
            decoded,
            decoded_columns,
            identity_gap,
            max_row: usize::MAX,
            unparsed: AtomicU64::new(0),
        })
    }
}

/// Which columns go into `raw_json`, and which paths are cut out of them.
struct Selection<'a> {
    allow: Option<Vec<&'a str>>,
    exclude: Vec<&'a str>,
    cuts: Vec<Cut>,
}

struct Cut {
    column: String,
    path: Vec<String>,
}

impl<'a> Selection<'a> {
    fn of(rules: &'a Rules, resolver: &mut Resolver<'_>) -> Selection<'a> {
        let mut existing = |written: &'a String| {
            let (name, is_optional) = optional(written);
            if resolver.position(name).is_some() {
                return Some(name);
            }
            if !is_optional {
                resolver.no_column("allow", name);
            }
            None
        };
        let allow = rules.allow.as_ref().map(|names| names.iter().filter_map(&mut existing).collect());
        let (mut exclude, mut cuts) = (Vec::new(), Vec::new());
        for written in &rules.exclude {
            let (name, is_optional) = optional(written);
            if resolver.position(name).is_some() {
                exclude.push(name);
            } else if let Some((column, path)) = resolver.json_path(name) {
                cuts.push(Cut { column: column.to_owned(), path });
            } else if !is_optional {
                resolver.no_column("exclude", name);
            }
        }
        Selection { allow, exclude, cuts }
    }

    /// Why a column stays out of `raw_json`. With `allow`, the check of names that look like secrets does not apply.
    fn withholds(&self, name: &str) -> Option<WithheldReason> {
        if self.exclude.contains(&name) {
            return Some(WithheldReason::Excluded);
        }
        if is_mapped_key(name) {
            return Some(WithheldReason::Replaced);
        }
        match &self.allow {
            Some(allow) if allow.contains(&name) => None,
            Some(_) => Some(WithheldReason::NotAllowed),
            None if looks_secret(name) => Some(WithheldReason::LooksSecret),
            None => None,
        }
    }

    fn paths_in(&self, name: &str) -> Vec<Vec<String>> {
        self.cuts.iter().filter(|cut| cut.column == name).map(|cut| cut.path.clone()).collect()
    }
}
