//! Rules held against a relation: what each value reads, what leaves, what the decoder has to produce.

use super::compiler::{CompileError, Compiler, identity_gap, remedy};
use super::filter::Condition;
use super::json::{JsonKind, key};
use super::plan::{RawColumn, RowPlan, WithheldReason};
use super::rules::optional;
use super::value::{Input, Text};
use super::{Rules, Value, looks_secret};
use crate::model::{Relation, TypeCatalog};
use std::sync::atomic::AtomicU64;

/// The keys that `raw_json` always carries: Neon's generated columns read them.
const MAPPED_KEYS: [&str; 4] = ["id", "display_name", "primary_email", "signed_up_at_millis"];

impl RowPlan {
    /// Holds the rules against one relation version. The error names every mistake at once.
    pub fn compile(rules: &Rules, relation: &Relation, types: &TypeCatalog) -> Result<RowPlan, CompileError> {
        let mut compiler = Compiler::new(relation, types);
        let id = compiler.text("id", &rules.id);
        let mut text = |key, value: &Option<Value>| value.as_ref().map(|value| compiler.text(key, value));
        let (tenant, name, email) =
            (text("tenant", &rules.tenant), text("name", &rules.name), text("email", &rules.email));
        let mut times = |key, value: &Option<Value>| value.as_ref().map(|value| compiler.times(key, value));
        let created_at = times("created_at", &rules.created_at);
        let updated_at = times("updated_at", &rules.updated_at);
        let deleted_at = times("deleted_at", &rules.deleted_at);
        let filter = rules.filter.as_ref().map(|filter| Condition::compile(filter, &mut compiler));
        let keys = rules.query.iter().flat_map(|query| &query.key);
        let keys: Vec<Input> = keys.filter_map(|column| compiler.input("key", column)).collect();
        let selection = Selection::of(rules, &mut compiler);
        compiler.finish()?;

        let identity: Vec<&Input> = id.inputs().into_iter().chain(tenant.iter().flat_map(Text::inputs)).collect();
        let identity_gap = identity_gap(&identity, relation);
        let remedy = remedy(&identity, relation);
        let texts = [&name, &email].into_iter().flatten().flat_map(Text::inputs);
        let moments = [&created_at, &updated_at, &deleted_at].into_iter().flatten();
        let moments = moments.flat_map(|moments| moments.0.iter().map(|(input, _)| input));
        let conditions = filter.iter().flat_map(Condition::inputs);
        let inputs = identity.into_iter().chain(texts).chain(moments).chain(conditions).chain(&keys);
        let inputs: Vec<usize> = inputs.map(|input| input.column).collect();

        let (mut out, mut exposed, mut withheld) = (Vec::new(), Vec::new(), Vec::new());
        let mut decoded = vec![false; relation.columns.len()];
        for (column, described) in relation.columns.iter().enumerate() {
            let name = &described.name;
            let is_input = inputs.contains(&column);
            let reason = selection.withholds(name);
            if reason.is_none() {
                let kind = JsonKind::compile(described.type_oid, types);
                let without = selection.paths_in(name);
                out.push(RawColumn { column, name: name.clone(), key: key(name), kind, without });
            }
            decoded[column] = is_input || reason.is_none();
            match reason {
                // Such as `id` read from `id`: it does leave, as the mapped value.
                Some(WithheldReason::Replaced) if is_input => exposed.push(name.clone()),
                Some(reason) => withheld.push((name.clone(), reason)),
                None => exposed.push(name.clone()),
            }
        }
        let columns = relation.columns.iter().map(|column| column.name.clone()).collect();
        Ok(RowPlan {
            id,
            tenant,
            name,
            email,
            created_at,
            updated_at,
            deleted_at,
            filter,
            key: keys,
            out,
            exposed,
            withheld,
            columns,
            decoded,
            identity_gap,
            remedy,
            stripped: AtomicU64::new(0),
        })
    }
}

/// Which columns go into `raw_json`, and which parts of them do not.
struct Selection<'a> {
    allow: Option<Vec<&'a str>>,
    exclude: Vec<&'a str>,
    /// Column and path.
    paths: Vec<(String, Vec<String>)>,
}

impl<'a> Selection<'a> {
    fn of(rules: &'a Rules, compiler: &mut Compiler<'_>) -> Selection<'a> {
        let mut there = |key, written: &'a String| {
            let (name, is_optional) = optional(written);
            let there = compiler.position(name).is_some();
            if !there && !is_optional {
                compiler.no_column(key, name);
            }
            there.then_some(name)
        };
        let allow = rules.allow.as_ref().map(|names| names.iter().filter_map(|name| there("allow", name)).collect());
        let (mut exclude, mut paths) = (Vec::new(), Vec::new());
        for written in &rules.exclude {
            let (name, is_optional) = optional(written);
            if compiler.position(name).is_some() {
                exclude.push(name);
            } else if let Some((column, path)) = compiler.json_path(name) {
                paths.push((column.to_owned(), path));
            } else if !is_optional {
                compiler.no_column("exclude", name);
            }
        }
        Selection { allow, exclude, paths }
    }

    /// Why a column stays out of `raw_json`. A list of what may leave is somebody's decision: names decide no more.
    fn withholds(&self, name: &str) -> Option<WithheldReason> {
        if self.exclude.contains(&name) {
            return Some(WithheldReason::Excluded);
        }
        if MAPPED_KEYS.contains(&name) {
            return Some(WithheldReason::Replaced);
        }
        match &self.allow {
            Some(allow) => (!allow.contains(&name)).then_some(WithheldReason::NotAllowed),
            None => looks_secret(name).then_some(WithheldReason::LooksSecret),
        }
    }

    fn paths_in(&self, name: &str) -> Vec<Vec<String>> {
        self.paths.iter().filter(|(column, _)| *column == name).map(|(_, path)| path.clone()).collect()
    }
}
