//! Which users a change of a watched table touches: their keys, and the tenants that the row names. Pure.

use super::compiler::{CompileError, Compiler, identity_gap, remedy};
use super::plan::TenantRef;
use super::rules::{Rules, Value, Via, Watch};
use super::unmappable::Unmappable;
use super::value::{Input, Known, RowImage, Text};
use crate::model::{Cell, Relation, TypeCatalog};
use std::borrow::Cow;

/// A [`Watch`], held against its table.
#[derive(Debug)]
pub struct TouchPlan {
    key: Vec<Input>,
    tenant: Option<Text>,
    via: Option<Via>,
    /// There is exactly one tenant.
    only: bool,
    decoded: Vec<bool>,
    identity_gap: Vec<String>,
    remedy: String,
}

/// A user that has to be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touch<'a> {
    /// The query's key as text, or what leads to it.
    pub key: Vec<Cow<'a, str>>,
    /// A tenant that the user was in, or is in; [`TenantRef::Unsent`] where the row does not tell.
    pub tenant: TenantRef<'a>,
}

impl TouchPlan {
    /// Holds a watched table against one of its relation versions.
    pub fn compile(
        rules: &Rules,
        watch: &Watch,
        relation: &Relation,
        types: &TypeCatalog,
    ) -> Result<TouchPlan, CompileError> {
        let mut compiler = Compiler::new(relation, types);
        let key: Vec<Input> = watch.key.iter().filter_map(|column| compiler.input("watch", column)).collect();
        let tenant = watch.tenant.as_ref().map(|tenant: &Value| compiler.text("watch", tenant));
        compiler.finish()?;
        let inputs: Vec<&Input> = key.iter().chain(tenant.iter().flat_map(Text::inputs)).collect();
        let mut decoded = vec![false; relation.columns.len()];
        inputs.iter().for_each(|input| decoded[input.column] = true);
        Ok(TouchPlan {
            identity_gap: identity_gap(&inputs, relation),
            remedy: remedy(&inputs, relation),
            only: rules.tenant.is_none(),
            decoded,
            key,
            tenant,
            via: watch.via.clone(),
        })
    }

    /// What leads from the keys of this table to the query's, where they are others.
    pub fn via(&self) -> Option<&Via> {
        self.via.as_ref()
    }

    /// Per column of the relation: whether the decoder has to produce it.
    pub fn decoded(&self) -> &[bool] {
        &self.decoded
    }

    /// The columns that the replica identity does not carry: without them a DELETE does not say whom it touches.
    pub fn identity_gap(&self) -> &[String] {
        &self.identity_gap
    }

    /// The SQL that closes the gap.
    pub fn identity_remedy(&self) -> &str {
        &self.remedy
    }

    /// Whom a row touches: of an update the old one (as far as it was sent) and the new one.
    pub fn touches<'a>(&self, row: &'a [Cell<'a>]) -> Result<Option<Touch<'a>>, Unmappable> {
        if row.len() != self.decoded.len() {
            return Err(Unmappable::Width { expected: self.decoded.len(), got: row.len() });
        }
        let row = RowImage { new: row, old: None };
        let mut key = Vec::with_capacity(self.key.len());
        for input in &self.key {
            match input.raw(row)? {
                Some(Some(text)) => key.push(text),
                // A row that belongs to nobody.
                Some(None) => return Ok(None),
                None => return Err(self.gap()),
            }
        }
        let tenant = match &self.tenant {
            None if self.only => TenantRef::Only,
            None => TenantRef::Unsent,
            Some(tenant) => match tenant.read(row)? {
                Known::Value(Some(tenant)) => TenantRef::Key(tenant),
                Known::Value(None) => TenantRef::NoTenant,
                Known::Unsent | Known::Mixed => return Err(self.gap()),
            },
        };
        Ok(Some(Touch { key, tenant }))
    }

    fn gap(&self) -> Unmappable {
        Unmappable::Identity { columns: self.identity_gap.join(", "), remedy: self.remedy.clone() }
    }
}
