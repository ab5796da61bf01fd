//! The rows of a statement as its parameters: one array per column, or the values of a single row.

use super::plan::Rows;
use crate::model::{Patch, User};
use crate::pg::PgTimestamp;
use tokio_postgres::types::{ToSql, Type};

/// A statement's rows, in the order of its parameters.
pub(super) struct RowParameters<'a> {
    single: Option<Single<'a>>,
    upserts: Option<Columns<'a>>,
    patches: Option<Columns<'a>>,
    deletes: Option<(Vec<&'a str>, Vec<PgTimestamp>)>,
}

impl<'a> RowParameters<'a> {
    pub(super) fn of(rows: &Rows<'a>) -> RowParameters<'a> {
        let deletes = || rows.deletes.iter().map(|(id, at)| (*id, PgTimestamp(*at))).unzip();
        let single = rows.single().map(Single::of);
        RowParameters {
            upserts: (single.is_none() && !rows.upserts.is_empty()).then(|| Columns::of_users(&rows.upserts)),
            patches: (!rows.patches.is_empty()).then(|| Columns::of_patches(&rows.patches)),
            deletes: (!rows.deletes.is_empty()).then(deletes),
            single,
        }
    }

    /// Appends the values or the arrays of the kinds that the statement has.
    pub(super) fn append_to<'p>(&'p self, parameters: &mut Vec<(&'p (dyn ToSql + Sync), Type)>) {
        if let Some(single) = &self.single {
            parameters.extend(single.parameters());
        }
        if let Some(upserts) = &self.upserts {
            parameters.extend(upserts.parameters());
        }
        if let Some(patches) = &self.patches {
            parameters.extend(patches.patch_parameters());
        }
        if let Some((ids, times)) = &self.deletes {
            parameters.push((ids, Type::TEXT_ARRAY));
            parameters.push((times, Type::TIMESTAMPTZ_ARRAY));
        }
    }
}

/// The values of a single whole row.
struct Single<'a> {
    id: &'a str,
    raw_json: &'a str,
    name: Option<&'a str>,
    email: Option<&'a str>,
    created_at: Option<PgTimestamp>,
    updated_at: Option<PgTimestamp>,
    deleted_at: Option<PgTimestamp>,
    derived: bool,
}

impl<'a> Single<'a> {
    fn of(user: &'a User) -> Single<'a> {
        Single {
            id: &user.id,
            raw_json: &user.raw_json,
            name: user.name.as_deref(),
            email: user.email.as_deref(),
            created_at: user.created_at.map(PgTimestamp),
            updated_at: user.updated_at.map(PgTimestamp),
            deleted_at: user.deleted_at.map(PgTimestamp),
            derived: user.updated_at_derived,
        }
    }

    fn parameters(&self) -> [(&(dyn ToSql + Sync), Type); 8] {
        [
            (&self.id, Type::TEXT),
            (&self.raw_json, Type::TEXT),
            (&self.name, Type::TEXT),
            (&self.email, Type::TEXT),
            (&self.created_at, Type::TIMESTAMPTZ),
            (&self.updated_at, Type::TIMESTAMPTZ),
            (&self.deleted_at, Type::TIMESTAMPTZ),
            (&self.derived, Type::BOOL),
        ]
    }
}

/// Rows as one array per column. The `set_` columns are empty for whole rows.
#[derive(Default)]
pub(super) struct Columns<'a> {
    id: Vec<&'a str>,
    raw_json: Vec<&'a str>,
    set_name: Vec<bool>,
    name: Vec<Option<&'a str>>,
    set_email: Vec<bool>,
    email: Vec<Option<&'a str>>,
    set_created_at: Vec<bool>,
    created_at: Vec<Option<PgTimestamp>>,
    set_updated_at: Vec<bool>,
    updated_at: Vec<Option<PgTimestamp>>,
    set_deleted_at: Vec<bool>,
    deleted_at: Vec<Option<PgTimestamp>>,
    derived: Vec<bool>,
}

impl<'a> Columns<'a> {
    pub(super) fn of_users(users: &[&'a User]) -> Self {
        let mut columns = Columns::default();
        for user in users {
            columns.id.push(&user.id);
            columns.raw_json.push(&user.raw_json);
            columns.name.push(user.name.as_deref());
            columns.email.push(user.email.as_deref());
            columns.created_at.push(user.created_at.map(PgTimestamp));
            columns.updated_at.push(user.updated_at.map(PgTimestamp));
            columns.deleted_at.push(user.deleted_at.map(PgTimestamp));
            columns.derived.push(user.updated_at_derived);
        }
        columns
    }

    fn of_patches(patches: &[&'a Patch]) -> Self {
        let mut columns = Columns::default();
        for patch in patches {
            columns.id.push(&patch.id);
            columns.raw_json.push(&patch.raw_json);
            let (set, name) = patch.name.split();
            columns.set_name.push(set);
            columns.name.push(name.map(String::as_str));
            let (set, email) = patch.email.split();
            columns.set_email.push(set);
            columns.email.push(email.map(String::as_str));
            let (set, at) = patch.created_at.split();
            columns.set_created_at.push(set);
            columns.created_at.push(at.copied().map(PgTimestamp));
            let (set, at) = patch.updated_at.split();
            columns.set_updated_at.push(set);
            columns.updated_at.push(at.copied().map(PgTimestamp));
            let (set, at) = patch.deleted_at.split();
            columns.set_deleted_at.push(set);
            columns.deleted_at.push(at.copied().map(PgTimestamp));
            columns.derived.push(patch.updated_at_derived);
        }
        columns
    }

    pub(super) fn parameters(&self) -> [(&(dyn ToSql + Sync), Type); 8] {
        [
            (&self.id, Type::TEXT_ARRAY),
            (&self.raw_json, Type::TEXT_ARRAY),
            (&self.name, Type::TEXT_ARRAY),
            (&self.email, Type::TEXT_ARRAY),
            (&self.created_at, Type::TIMESTAMPTZ_ARRAY),
            (&self.updated_at, Type::TIMESTAMPTZ_ARRAY),
            (&self.deleted_at, Type::TIMESTAMPTZ_ARRAY),
            (&self.derived, Type::BOOL_ARRAY),
        ]
    }

    fn patch_parameters(&self) -> [(&(dyn ToSql + Sync), Type); 13] {
        [
            (&self.id, Type::TEXT_ARRAY),
            (&self.raw_json, Type::TEXT_ARRAY),
            (&self.set_name, Type::BOOL_ARRAY),
            (&self.name, Type::TEXT_ARRAY),
            (&self.set_email, Type::BOOL_ARRAY),
            (&self.email, Type::TEXT_ARRAY),
            (&self.set_created_at, Type::BOOL_ARRAY),
            (&self.created_at, Type::TIMESTAMPTZ_ARRAY),
            (&self.set_updated_at, Type::BOOL_ARRAY),
            (&self.updated_at, Type::TIMESTAMPTZ_ARRAY),
            (&self.set_deleted_at, Type::BOOL_ARRAY),
            (&self.deleted_at, Type::TIMESTAMPTZ_ARRAY),
            (&self.derived, Type::BOOL_ARRAY),
        ]
    }
}
