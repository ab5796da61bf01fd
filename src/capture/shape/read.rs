//! Reads the shape from the catalogs, in one query and without a lock on any table.

use super::compare::REMEMBERS_UNTIL_VERSION;
use super::model::SourceShape;
use crate::capture::CaptureError;
use crate::model::TableName;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Statement};

/// First version with row filters, column lists and FOR TABLES IN SCHEMA.
const PUBLISHED_PARTS_VERSION: i32 = 150_000;
/// `ATTACH PARTITION` updates the rows of a table's columns, and not those of its system columns.
const IS_CREATED_ATTACHED: &str = "NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a, pg_catalog.pg_attribute s
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND s.attrelid = c.oid AND s.attnum = -6
      AND NOT (a.xmin = s.xmin AND a.cmin = s.cmin))";
/// First oid of an object that was not created by initdb.
const FIRST_NORMAL_OID: u32 = 16_384;

/// A connection's statement that reads the shape of some tables.
pub(crate) struct ShapeReader {
    statement: Statement,
    publication: String,
    schemas: Vec<String>,
    names: Vec<String>,
}

impl ShapeReader {
    pub(crate) async fn new(client: &Client, publication: &str, tables: &[&TableName]) -> Result<Self, CaptureError> {
        let sql = "SELECT current_setting('server_version_num')::int";
        let version: i32 = client.query_typed_one(sql, &[]).await?.try_get(0)?;
        let types = [Type::TEXT, Type::TEXT_ARRAY, Type::TEXT_ARRAY];
        Ok(ShapeReader {
            statement: client.prepare_typed(&query(version), &types).await?,
            publication: publication.to_owned(),
            schemas: tables.iter().map(|table| table.schema.clone()).collect(),
            names: tables.iter().map(|table| table.name.clone()).collect(),
        })
    }

    pub(crate) async fn read(&self, client: &Client) -> Result<SourceShape, CaptureError> {
        let row = client.query_one(&self.statement, &[&self.publication, &self.schemas, &self.names]).await?;
        let shape: &str = row.try_get(0)?;
        serde_json::from_str(shape).map_err(|error| CaptureError::protocol(format!("the source's shape: {error}")))
    }
}

fn query(version: i32) -> String {
    let has_parts = version >= PUBLISHED_PARTS_VERSION;
    let is_created_attached = if version < REMEMBERS_UNTIL_VERSION { IS_CREATED_ATTACHED } else { "true" };
    let by_schema = if has_parts {
        "OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = t.namespace)"
    } else {
        ""
    };
    let parts = if has_parts {
        "'has_row_filter', r.prqual IS NOT NULL, 'columns', CASE WHEN r.prattrs IS NOT NULL THEN to_jsonb(r.prattrs::int2[]) END"
    } else {
        "'has_row_filter', false, 'columns', NULL"
    };
    format!(
        "
WITH RECURSIVE t AS (
  SELECT i.n, i.schema, i.name, c.oid, c.relnamespace AS namespace, c.relkind = 'p' AS is_partitioned
  FROM unnest($2, $3) WITH ORDINALITY AS i(schema, name, n)
  JOIN pg_catalog.pg_namespace s ON s.nspname = i.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = s.oid AND c.relname = i.name AND c.relkind IN ('r', 'p')
), tree AS (
  SELECT t.oid AS root, t.oid, true AS is_partition, ARRAY[]::bigint[] AS attached_by, true AS is_created_attached FROM t
  UNION
  SELECT tree.root, c.oid, c.relispartition, tree.attached_by || i.xmin::text::bigint,
    tree.is_created_attached AND {is_created_attached}
  FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid AND NOT i.inhdetachpending
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE tree.is_partition
), used AS (
  SELECT a.attrelid AS root, a.atttypid AS oid FROM t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid
  WHERE a.attnum > 0 AND NOT a.attisdropped
  UNION
  SELECT used.root, part.oid FROM used JOIN pg_catalog.pg_type y ON y.oid = used.oid
  CROSS JOIN LATERAL (
    SELECT y.typelem AS oid UNION SELECT y.typbasetype
    UNION SELECT a.atttypid FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = y.typrelid AND y.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped
    UNION SELECT g.rngsubtype FROM pg_catalog.pg_range g WHERE g.rngtypid = y.oid) part
  WHERE y.oid >= {FIRST_NORMAL_OID} AND part.oid <> 0
)
SELECT jsonb_build_object(
  'server_version', current_setting('server_version_num')::int,
  'publication', (SELECT jsonb_build_object('inserts', p.pubinsert, 'updates', p.pubupdate, 'deletes', p.pubdelete,
      'truncates', p.pubtruncate, 'via_root', p.pubviaroot, 'generated', coalesce(to_jsonb(p) ->> 'pubgencols', ''))
    FROM pg_catalog.pg_publication p WHERE p.pubname = $1::name),
  'tables', coalesce((SELECT jsonb_agg(jsonb_build_object(
    'schema', t.schema, 'name', t.name, 'oid', t.oid::bigint, 'is_partitioned', t.is_partitioned,
    'row_security', row_security_active(t.oid),
    'columns', coalesce((SELECT jsonb_agg(jsonb_build_object('name', a.attname, 'number', a.attnum,
        'type_oid', a.atttypid::bigint, 'typmod', a.atttypmod, 'is_generated', a.attgenerated <> '',
        'is_virtual', a.attgenerated = 'v',
        'version', a.xmin::text::bigint) ORDER BY a.attnum)
      FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'),
    'leaves', coalesce((SELECT jsonb_agg(jsonb_build_object('schema', s.nspname, 'name', c.relname,
        'oid', c.oid::bigint, 'kind', c.relkind, 'persistence', c.relpersistence, 'filenode', c.relfilenode::bigint,
        'identity', c.relreplident, 'attached_by', tree.attached_by, 'is_created_attached', tree.is_created_attached,
        'identity_columns', coalesce((SELECT jsonb_agg(a.attname ORDER BY a.attnum)
          FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid
            AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
          WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
            AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END), '[]'))
        ORDER BY c.oid)
      FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
      WHERE tree.root = t.oid AND tree.is_partition AND c.relkind <> 'p'), '[]'),
    'children', coalesce((SELECT jsonb_agg(format('%s.%s', s.nspname, c.relname) ORDER BY c.oid)
      FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
      WHERE tree.root = t.oid AND NOT tree.is_partition), '[]'),
    'types', coalesce((SELECT jsonb_object_agg(y.oid::text, jsonb_build_object(
        'labels', coalesce((SELECT jsonb_object_agg(e.oid::text, e.enumlabel)
          FROM pg_catalog.pg_enum e WHERE e.enumtypid = y.oid), '{{}}'),
        'attributes', coalesce((SELECT jsonb_agg(jsonb_build_array(a.attnum, a.attname, a.atttypid::bigint, a.atttypmod)
            ORDER BY a.attnum)
          FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = y.typrelid AND y.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped), '[]'),
        'json_cast', (SELECT format('%s:%s', f.oid, hashtextextended(concat(f.prosrc, to_jsonb(f) ->> 'prosqlbody'), 0))
          FROM pg_catalog.pg_cast k JOIN pg_catalog.pg_proc f ON f.oid = k.castfunc
          WHERE k.castsource = y.oid AND k.casttarget = 114 AND k.castmethod = 'f'),
        'inner', CASE WHEN y.typbasetype <> 0 THEN y.typbasetype ELSE y.typelem END::bigint))
      FROM used JOIN pg_catalog.pg_type y ON y.oid = used.oid
      WHERE used.root = t.oid AND y.oid >= {FIRST_NORMAL_OID}), '{{}}'),
    'published', (SELECT jsonb_build_object({parts})
      FROM pg_catalog.pg_publication p
      LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = t.oid
      WHERE p.pubname = $1::name AND (p.puballtables OR r.oid IS NOT NULL {by_schema})))
    ORDER BY t.n) FROM t), '[]'))::text"
    )
}
