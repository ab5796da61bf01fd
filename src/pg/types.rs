//! Reads the types that a table uses from the catalog, with one query per level of nesting.

use crate::model::{CompositeField, Oid, TypeCatalog, TypeKind};
use std::collections::BTreeSet;
use tokio_postgres::Client;

/// Types by id; a true array has array subscripting (`point` has elements but is no array). PostgreSQL before
/// 14 lacks `typsubscript`, which is null through `to_jsonb`; `"char"` columns are cast to text because they
/// have no UTF-8 representation. The last column is null without a cast that `to_jsonb` uses
/// (json_categorize_type of utils/adt/jsonfuncs.c), and true for that of the extension hstore.
const READ_TYPES: &str = "
    SELECT t.oid, t.typtype::text, t.typbasetype, t.typelem, e.typdelim::text,
           t.typelem <> 0 AND coalesce(to_jsonb(t) ->> 'typsubscript' = 'array_subscript_handler', t.typlen = -1),
           array(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                 WHERE a.attrelid = t.typrelid AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped
                 ORDER BY a.attnum),
           array(SELECT a.atttypid FROM pg_catalog.pg_attribute a
                 WHERE a.attrelid = t.typrelid AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped
                 ORDER BY a.attnum),
           (SELECT l.lanname = 'c' AND p.prosrc = 'hstore_to_json'
            FROM pg_catalog.pg_cast k JOIN pg_catalog.pg_proc p ON p.oid = k.castfunc
            JOIN pg_catalog.pg_language l ON l.oid = p.prolang
            WHERE k.castsource = t.oid AND k.casttarget = 114 AND k.castmethod = 'f' AND t.oid >= 16384)
    FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem
    WHERE t.oid = ANY($1)";

/// Reads the types in `wanted` and those that they are made of; types unknown to the server are left out and
/// count as scalars.
pub async fn load_types(client: &Client, wanted: &[Oid]) -> Result<TypeCatalog, tokio_postgres::Error> {
    let mut types = TypeCatalog::new();
    let mut missing: BTreeSet<Oid> = wanted.iter().copied().collect();
    while !missing.is_empty() {
        let requested: Vec<Oid> = std::mem::take(&mut missing).into_iter().collect();
        for row in client.query(READ_TYPES, &[&requested]).await? {
            let oid: Oid = row.try_get(0)?;
            let kind = match row.try_get(1)? {
                "d" => TypeKind::Domain(row.try_get(2)?),
                "c" => {
                    let (names, oids): (Vec<String>, Vec<Oid>) = (row.try_get(6)?, row.try_get(7)?);
                    let fields = names.into_iter().zip(oids);
                    TypeKind::Composite(fields.map(|(name, type_oid)| CompositeField { name, type_oid }).collect())
                }
                _ if row.try_get(5)? => {
                    let delimiter: Option<&str> = row.try_get(4)?;
                    let delimiter = delimiter.and_then(|text| text.bytes().next()).unwrap_or(b',');
                    TypeKind::Array { element: row.try_get(3)?, delimiter }
                }
                _ => match row.try_get::<_, Option<bool>>(8)? {
                    Some(true) => TypeKind::Hstore,
                    Some(false) => TypeKind::Cast,
                    None => TypeKind::Scalar(oid),
                },
            };
            match &kind {
                TypeKind::Domain(inner) | TypeKind::Array { element: inner, .. } => {
                    missing.insert(*inner);
                }
                TypeKind::Composite(fields) => missing.extend(fields.iter().map(|field| field.type_oid)),
                TypeKind::Scalar(_) | TypeKind::Hstore | TypeKind::Cast => {}
            }
            types.insert(oid, kind);
        }
        missing.retain(|oid| !types.contains_key(oid) && requested.binary_search(oid).is_err());
    }
    Ok(types)
}
