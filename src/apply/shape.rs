//! The shape of `neon_auth.users_sync` in a target, and the parts of statements that depend on it.

use crate::model::Oid;
use tokio_postgres::types::Type;

/// The columns of `users_sync` in the order of the arrays.
pub(super) const COLUMNS: [&str; 7] = ["id", "raw_json", "name", "email", "created_at", "updated_at", "deleted_at"];

/// The writable columns of `neon_auth.users_sync`. Generated columns are computed from `raw_json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    writable: [bool; 7],
}

/// Why `neon_auth.users_sync` cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A column is missing.
    #[error("neon_auth.users_sync has no column {0}")]
    Missing(&'static str),
    /// A column that users-sync has to write is generated.
    #[error("column {0} of neon_auth.users_sync is generated, but users-sync has to write it")]
    Generated(&'static str),
    /// A column has the wrong type.
    #[error("column {column} of neon_auth.users_sync has the type {found} instead of {expected}")]
    Type {
        column: &'static str,
        /// The required type.
        expected: &'static str,
        /// The actual type.
        found: String,
    },
}

/// A row of `COLUMNS_OF_USERS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableColumn {
    pub(crate) name: String,
    pub(crate) type_oid: Oid,
    /// `atttypmod`: -1 without a modifier.
    pub(crate) typmod: i32,
    /// For errors only: as `format_type` writes it, which depends on settings.
    pub(crate) type_name: String,
    pub(crate) is_generated: bool,
    /// It must have a value, and has no default.
    pub(crate) is_required: bool,
}

impl TableColumn {
    pub(crate) fn read(row: &tokio_postgres::Row) -> Result<TableColumn, tokio_postgres::Error> {
        Ok(TableColumn {
            name: row.try_get(0)?,
            type_oid: row.try_get(1)?,
            typmod: row.try_get(2)?,
            type_name: row.try_get(3)?,
            is_generated: row.try_get(4)?,
            is_required: row.try_get(5)?,
        })
    }

    /// Whether users-sync writes it.
    pub(super) fn is_ours(&self) -> bool {
        COLUMNS.contains(&&*self.name)
    }
}

impl Shape {
    /// Checks the columns that the catalog lists.
    pub(crate) fn from_columns(found: &[TableColumn]) -> Result<Shape, ShapeError> {
        let mut writable = [true; 7];
        for (column, writable) in COLUMNS.into_iter().zip(&mut writable) {
            let found = found.iter().find(|found| found.name == column).ok_or(ShapeError::Missing(column))?;
            let (oid, expected) = type_of(column);
            if found.type_oid != oid || found.typmod != -1 {
                return Err(ShapeError::Type { column, expected, found: found.type_name.clone() });
            }
            if found.is_generated && matches!(column, "raw_json" | "updated_at" | "deleted_at") {
                return Err(ShapeError::Generated(column));
            }
            *writable = !found.is_generated;
        }
        Ok(Shape { writable })
    }

    /// The required type of a column.
    pub(super) fn type_name(column: &str) -> &'static str {
        type_of(column).1
    }

    /// The columns that COPY and INSERT list.
    pub(crate) fn writable(&self) -> impl Iterator<Item = &'static str> + '_ {
        COLUMNS.into_iter().zip(self.writable).filter_map(|(column, writable)| writable.then_some(column))
    }

    /// `prefix.column, ...` of the writable columns.
    pub(super) fn list(&self, prefix: &str) -> String {
        self.writable().map(|column| format!("{prefix}{column}")).collect::<Vec<_>>().join(", ")
    }

    /// `column = source.column, ...` of the writable columns except the key.
    pub(super) fn assignments(&self, source: &str) -> String {
        let assign = |column| format!("{column} = {source}.{column}");
        self.writable().filter(|column| *column != "id").map(assign).collect::<Vec<_>>().join(", ")
    }

    /// Whether the row `u` differs from `source`. A derived time alone is no difference.
    pub(crate) fn differs(&self, source: &str) -> String {
        let compared = |prefix: &str| {
            let columns = self.writable().filter(|column| !matches!(*column, "id" | "updated_at"));
            columns.map(|column| format!("{prefix}.{column}")).collect::<Vec<_>>().join(", ")
        };
        format!(
            "(({}) IS DISTINCT FROM ({}) OR NOT {source}.derived AND u.updated_at IS DISTINCT FROM {source}.updated_at)",
            compared("u"),
            compared(source)
        )
    }

    /// Updates the rows of `source`, a relation with the seven columns and `derived`.
    pub(super) fn update(&self, source: &str) -> String {
        format!(
            "UPDATE neon_auth.users_sync u SET {} FROM {source}, guard WHERE u.id = {source}.id AND {}",
            self.assignments(source),
            self.differs(source),
        )
    }

    /// Inserts the rows of `source` that the table lacks.
    pub(super) fn insert(&self, source: &str) -> String {
        format!(
            "INSERT INTO neon_auth.users_sync ({}) SELECT {} FROM {source}, guard \
             WHERE NOT EXISTS (SELECT FROM neon_auth.users_sync u WHERE u.id = {source}.id)",
            self.list(""),
            self.list(&format!("{source}.")),
        )
    }
}

/// The type of a column: its oid, and its name for errors.
fn type_of(column: &str) -> (Oid, &'static str) {
    match column {
        "raw_json" => (Type::JSONB.oid(), "jsonb"),
        "id" | "name" | "email" => (Type::TEXT.oid(), "text"),
        _ => (Type::TIMESTAMPTZ.oid(), "timestamp with time zone"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn columns(generated: &[&str]) -> Vec<TableColumn> {
        let column = |name: &str| TableColumn {
            name: name.to_owned(),
            type_oid: type_of(name).0,
            typmod: -1,
            type_name: "as written with another setting".to_owned(),
            is_generated: generated.contains(&name),
            is_required: false,
        };
        COLUMNS.into_iter().map(column).collect()
    }

    #[test]
    fn both_table_shapes_are_recognised_and_others_are_reported() {
        let plain = Shape::from_columns(&columns(&[])).unwrap();
        assert!(plain.writable().eq(COLUMNS));
        let neon = Shape::from_columns(&columns(&["id", "name", "email", "created_at"])).unwrap();
        assert_eq!(neon.writable().collect::<Vec<_>>(), ["raw_json", "updated_at", "deleted_at"]);
        assert_eq!(Shape::from_columns(&columns(&["deleted_at"])), Err(ShapeError::Generated("deleted_at")));
        assert_eq!(Shape::from_columns(&columns(&[])[1..]), Err(ShapeError::Missing("id")));
        let mut uuid = columns(&[]);
        uuid[0].type_oid = Type::UUID.oid();
        assert!(matches!(Shape::from_columns(&uuid), Err(ShapeError::Type { column: "id", .. })));
        let mut rounded = columns(&[]);
        rounded[4].typmod = 3;
        assert!(matches!(Shape::from_columns(&rounded), Err(ShapeError::Type { column: "created_at", .. })));
    }
}
