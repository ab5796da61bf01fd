//! A compiled watch: which users a changed row of a watched table affects, and the tenant that it names. Pure.

use super::compile_error::CompileError;
use super::identity::IdentityGap;
use super::plan::TenantRef;
use super::resolver::Resolver;
use super::rules::{Rules, Value, Via, Watch};
use super::unmappable::Unmappable;
use super::value::{Input, Known, RowImage, Text};
use crate::model::{Cell, Relation, TypeCatalog};
use std::borrow::Cow;

/// A [`Watch`], compiled for one relation version of its table.
#[derive(Debug)]
pub(crate) struct WatchPlan {
    key: Vec<Input>,
    tenant: Option<Text>,
    via: Option<Via>,
    has_only_tenant: bool,
    decoded: Vec<bool>,
    identity_gap: IdentityGap,
}

/// The key of a user that has to be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AffectedKey<'a> {
    /// The query's key, or with [`WatchPlan::via`] a key that leads to it.
    pub key: Vec<Cow<'a, str>>,
    /// A tenant that the user was in, or is in; [`TenantRef::Unsent`] if the table names none.
    pub tenant: TenantRef<'a>,
}

impl WatchPlan {
    pub(crate) fn compile(
        rules: &Rules,
        watch: &Watch,
        relation: &Relation,
        types: &TypeCatalog,
    ) -> Result<WatchPlan, CompileError> {
        let mut resolver = Resolver::new(relation, types);
        let key: Vec<Input> = watch.key.iter().filter_map(|column| resolver.input("watch", column)).collect();
        let tenant = watch.tenant.as_ref().map(|tenant: &Value| resolver.text("watch", tenant));
        resolver.finish()?;
        let inputs: Vec<&Input> = key.iter().chain(tenant.iter().flat_map(Text::inputs)).collect();
        let is_input = |column| inputs.iter().any(|input| input.column == column);
        let decoded = relation.indexed_columns().map(|(column, _)| is_input(column)).collect();
        Ok(WatchPlan {
            identity_gap: IdentityGap::of(&inputs, relation),
            has_only_tenant: rules.tenant.is_none(),
            decoded,
            key,
            tenant,
            via: watch.via.clone(),
        })
    }

    /// What leads from the keys of this table to the query's; `None` if they are the query's own.
    pub(crate) fn via(&self) -> Option<&Via> {
        self.via.as_ref()
    }

    /// For each column of the relation, whether the decoder has to produce it.
    pub(crate) fn decoded(&self) -> &[bool] {
        &self.decoded
    }

    /// The columns that the replica identity does not carry: without them a DELETE does not tell which user it affects.
    pub(crate) fn identity_gap(&self) -> &[String] {
        &self.identity_gap.columns
    }

    /// The SQL that closes the gap.
    pub(crate) fn identity_remedy(&self) -> &str {
        &self.identity_gap.remedy
    }

    /// The key in one row, new or old; `None` if it is null. For an update, both rows count.
    pub(crate) fn affected_key<'a>(&self, row: &'a [Cell<'a>]) -> Result<Option<AffectedKey<'a>>, Unmappable> {
        if row.len() != self.decoded.len() {
            return Err(Unmappable::Width { expected: self.decoded.len(), got: row.len() });
        }
        let row = RowImage { new: row, old: None };
        let mut key = Vec::with_capacity(self.key.len());
        for input in &self.key {
            match input.raw(row)? {
                Some(Some(text)) => key.push(text),
                Some(None) => return Ok(None),
                None => return Err(self.identity_gap.error()),
            }
        }
        let tenant = match &self.tenant {
            None if self.has_only_tenant => TenantRef::Only,
            None => TenantRef::Unsent,
            Some(tenant) => match tenant.read(row)? {
                Known::Value(Some(tenant)) => TenantRef::Key(tenant),
                Known::Value(None) => TenantRef::NoTenant,
                Known::Unsent | Known::Mixed => return Err(self.identity_gap.error()),
            },
        };
        Ok(Some(AffectedKey { key, tenant }))
    }
}
