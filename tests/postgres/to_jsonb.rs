//! Property test: `raw_json` equals the server's own `to_jsonb` of the row, for rows of the types in `COLUMNS`.
//! Prints its seed; `USERS_SYNC_SEED=<number>` repeats a run.

use futures_util::TryStreamExt;
use std::time::SystemTime;
use tokio_postgres::Client;
use users_sync::map::{RowPlan, Rules, TenantRef, Value, parse_timestamp};
use users_sync::model::{Cell, Column, Oid, Relation, ReplicaIdentity, TableName};
use users_sync::throwaway::{Options, PostgresServer};

const ROWS: usize = 4000;
/// The probability that a value is null.
const NULLS: u64 = 8;

/// The settings of the walsender's session.
const SESSION: &str = "SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres';
    SET extra_float_digits = 3; SET bytea_output = 'hex'";

const TYPES: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'very "happy"', '');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN texts AS text[];
    CREATE DOMAIN document AS jsonb;
    CREATE TYPE inner_type AS (n numeric, "a ""b""" text, dropped int, at timestamptz);
    ALTER TYPE inner_type DROP ATTRIBUTE dropped;
    CREATE TYPE outer_type AS (i inner_type, list inner_type[], words texts, doc json, nothing bool);
    CREATE DOMAIN outer_domain AS outer_type;
    CREATE TYPE lonely AS (one text);
"#;

/// Column types, and expressions that produce one value each; `random()` and the like vary it.
const COLUMNS: &[(&str, &[&str])] = &[
    ("bool", &["random() < 0.5"]),
    ("int2", &["(random() * 65535 - 32768)::int2"]),
    ("int4", &["(random() * 4e9 - 2e9)::int4", "-2147483648"]),
    ("int8", &["(random() * 1.8e19 - 9e18)::int8", "-9223372036854775808"]),
    ("float4", &["(random() * 1e10 - 5e9)::float4", "'NaN'", "'Infinity'", "'-Infinity'", "'1e-40'", "'-0'", "3e38"]),
    ("float8", &["random()", "'NaN'", "'Infinity'", "'-Infinity'", "'5e-324'", "'-0'", "1.7e308", "random() * 1e22"]),
    (
        "numeric",
        &[
            "(random() * 1e9)::numeric",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "repeat('9', 300)::numeric",
            "'1e-200'",
            "1.500",
            "0",
        ],
    ),
    ("numeric(12,4)", &["random() * 10000"]),
    ("text", &["any_text()", "any_text()", "''", "'NULL'"]),
    ("varchar(40)", &["left(any_text(), 40)"]),
    ("char(7)", &["left(any_text(), 7)", "'ab'"]),
    ("\"char\"", &["'x'", "'\"'", "''"]),
    ("name", &["'name \"x\"'"]),
    ("bytea", &["decode(md5(random()::text), 'hex')", "''"]),
    ("uuid", &["gen_random_uuid()"]),
    (
        "date",
        &[
            "'2000-01-01'::date + (random() * 1000000 - 500000)::int",
            "'infinity'",
            "'-infinity'",
            "'0044-03-15 BC'",
            "'5874897-12-31'",
            "'4714-11-24 BC'",
        ],
    ),
    ("time", &["(random() * interval '24 hours')::time", "'24:00'"]),
    ("timetz", &["(random() * interval '24 hours')::time::timetz", "'12:34:56.7+05:30'"]),
    (
        "timestamp",
        &[
            "any_time()::timestamp",
            "'infinity'",
            "'-infinity'",
            "'0044-03-15 12:00 BC'",
            "'12024-01-01 00:00:00.000001'",
        ],
    ),
    ("timestamp(0)", &["any_time()::timestamp"]),
    (
        "timestamptz",
        &[
            "any_time()",
            "any_time()",
            "'infinity'",
            "'-infinity'",
            "'0044-03-15 12:00:00.5+00 BC'",
            "'4714-11-24 00:00:00+00 BC'",
            "'294276-12-31 23:59:59.999999+00'",
        ],
    ),
    ("interval", &["random() * interval '900 days'", "'-1 year 2 mons -3 days 04:05:06.7'", "'0'"]),
    (
        "json",
        &[
            "any_json()",
            "json_build_object(any_text(), any_text(), 'n', random(), 'null', null)",
            r#"'{"a":1, "b" : [ 1e3 ,{}], "a": "twice\u00e9\\u0000"}'"#,
            r#"'"\ud83d\ude00"'"#,
            "' [] '",
        ],
    ),
    (
        "jsonb",
        &["any_json()::jsonb", "jsonb_build_object(any_text(), any_text())", "'null'", "'\"\\\\u0000\"'", "'1.50'"],
    ),
    ("document", &["any_json()::jsonb"]),
    ("bool[]", &["array[true, null, false]", "'{}'"]),
    (
        "int4[]",
        &[
            "array[1, null, (random() * 100)::int]",
            "'[2:3]={1,2}'",
            "'[0:1][-1:0]={{1,2},{3,NULL}}'",
            "'{{{{{{1}}}}}}'",
            "'{}'",
        ],
    ),
    ("float8[]", &["array[random(), 'NaN', null, '-Infinity']"]),
    ("numeric[]", &["array['NaN', 1.50, null]"]),
    (
        "text[]",
        &[
            "array[any_text(), null, any_text()]",
            "array[any_text(), 'NULL', 'null', '', ' ']",
            "array[array[any_text()], array['{}']]",
            "'{}'",
        ],
    ),
    ("char(3)[]", &["array['a', 'b\"']"]),
    ("date[]", &["array['0044-03-15 BC'::date, 'infinity', null]"]),
    ("timestamptz[]", &["array[any_time(), 'infinity', null]"]),
    ("timestamp[]", &["array[any_time()::timestamp, '0044-03-15 12:00 BC']"]),
    ("json[]", &["array[any_json(), null, any_json()]"]),
    ("jsonb[]", &["array[array[any_json()::jsonb, 'null']]"]),
    ("uuid[]", &["array[gen_random_uuid()]"]),
    ("bytea[]", &["array['\\x00ff'::bytea, '']"]),
    ("interval[]", &["array[interval '1 day 2 hours']"]),
    ("mood", &["'sad'", "'very \"happy\"'", "''"]),
    ("mood[]", &["'{sad,\"very \\\"happy\\\"\",NULL,\"\"}'"]),
    ("positive", &["1 + (random() * 100)::int"]),
    ("positive[]", &["'{1,2}'"]),
    ("texts", &["array[any_text(), null]", "'{}'"]),
    ("texts[]", &["array[array[any_text()]::texts]"]),
    ("inner_type", &["any_inner()", "row(null, null, null)::inner_type", "row(1, '', null)::inner_type"]),
    ("inner_type[]", &["array[any_inner(), null, any_inner()]", "'{}'"]),
    ("outer_type", &["any_outer()"]),
    ("outer_domain", &["any_outer()"]),
    ("outer_type[]", &["array[any_outer(), null]"]),
    ("lonely", &["row(null)::lonely", "row('')::lonely", "row(any_text())::lonely"]),
    ("lonely[]", &["array[row(null)::lonely, row('')::lonely, null]"]),
    ("int4range", &["int4range(1, 5)", "'empty'", "'(,)'"]),
    ("tstzrange", &["tstzrange('2020-01-01', null)"]),
    ("int4multirange", &["'{[1,3),[5,8)}'"]),
    ("daterange[]", &["array[daterange('2020-01-01', '2021-01-01')]"]),
    ("inet", &["'10.0.0.1/8'", "'::1'"]),
    ("cidr", &["'10.0.0.0/8'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    ("money", &["(random() * 100000)::numeric::money", "'-$1,234.50'"]),
    ("bit(5)", &["B'10101'"]),
    ("varbit", &["B'101'", "B''"]),
    ("point", &["point(random(), 1e300)"]),
    ("point[]", &["array[point(1, 2), null]"]),
    ("box", &["'(1,1),(0,0)'"]),
    ("box[]", &["'{(1,1),(0,0);(3,3),(2,2)}'", "'{}'"]),
    ("polygon", &["'((0,0),(1,1))'"]),
    ("line", &["'{1,-1,0.5}'"]),
    ("lseg", &["'[(0,0),(1,1e-5)]'"]),
    ("path", &["'[(0,0),(1,1),(2,0)]'", "'((0,0),(1,1))'"]),
    ("circle", &["'<(1,2),3>'"]),
    ("tsvector", &["to_tsvector('simple', md5(random()::text) || ' it''s a \\ b')"]),
    ("tsquery", &["'a & ''b c'''"]),
    ("oid", &["'1234'"]),
    ("oid[]", &["'{1,4294967295}'"]),
    ("regclass", &["'pg_class'"]),
    ("int2vector", &["'1 2 -3'", "''"]),
    ("oidvector", &["'1 2'", "''"]),
    ("pg_lsn", &["'16/B374D848'"]),
    ("tid", &["'(7,1)'"]),
    ("pg_snapshot", &["'10:20:10,14,15'"]),
    ("xid8", &["'18446744073709551615'"]),
    ("jsonpath", &["'$.\"a b\"'"]),
    ("citext_like", &["any_text()"]),
];

/// For servers that have the extension.
const HSTORE: [(&str, &[&str]); 4] = [
    (
        "hstore",
        &["hstore(array[any_text(), any_text(), 'n'], array[any_text(), null, '1'])", "''", "'NULL=>NULL, 1=>t'"],
    ),
    ("hstore[]", &["array[hstore(any_text(), any_text()), null, '']"]),
    ("attributes", &["hstore(any_text(), any_text())"]),
    ("with_hstore", &["row(hstore(any_text(), null), array[hstore(any_text(), any_text())])::with_hstore"]),
];

/// Functions that the expressions call. `any_text` contains many characters that need escaping.
const FUNCTIONS: &str = r#"
    CREATE DOMAIN citext_like AS varchar;
    CREATE FUNCTION any_text() RETURNS text LANGUAGE sql VOLATILE AS $$
        SELECT coalesce(string_agg((array['a', 'Z', '"', '\', ',', '{', '}', '(', ')', ' ', E'\n', E'\t', E'\x01', E'\x7f',
            'é', '漢', '😀', 'NULL', '\u0000', '\\u0000', ';', ':', '''', E'\r', E'\b', '/', '[', ']', '='])[1 + floor(random() * 29)::int], ''), '')
        FROM generate_series(1, floor(random() * 12)::int) $$;
    CREATE FUNCTION any_time() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
        SELECT to_timestamp(random() * 3e11 - 6e10) $$;
    CREATE FUNCTION any_json() RETURNS json LANGUAGE sql VOLATILE AS $$
        SELECT (array[to_json(any_text()), json_build_array(any_text(), null, json_build_object(any_text(), true)),
            json_build_object('a', random(), 'b', any_text()), 'null', '12', '{}'])[1 + floor(random() * 6)::int] $$;
    CREATE FUNCTION any_inner() RETURNS inner_type LANGUAGE sql VOLATILE AS $$
        SELECT row((random() * 100)::numeric, CASE WHEN random() < 0.8 THEN any_text() END, any_time())::inner_type $$;
    CREATE FUNCTION any_outer() RETURNS outer_type LANGUAGE sql VOLATILE AS $$
        SELECT row(any_inner(), array[any_inner(), null, any_inner()], array[any_text(), null]::texts, any_json(), null)::outer_type $$;
"#;

#[tokio::test]
async fn raw_json_equals_to_jsonb() {
    let server = PostgresServer::start(Options::new()).await.unwrap();
    let client = server.connect("postgres").await.unwrap();
    let seed = match std::env::var("USERS_SYNC_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos().into(),
    };
    eprintln!("USERS_SYNC_SEED={seed}");
    let mut dice = Dice(seed);

    client.batch_execute(&format!("{SESSION}; {TYPES} {FUNCTIONS}")).await.unwrap();
    let xml = client.batch_execute("SELECT '<a/>'::xml").await.is_ok();
    let mut columns = COLUMNS.to_vec();
    if xml {
        columns.push(("xml", &["'<a b=\"c\">d</a>'"]));
    }
    let hstore = "CREATE EXTENSION hstore; CREATE DOMAIN attributes AS hstore;
        CREATE TYPE with_hstore AS (h hstore, list hstore[])";
    if client.batch_execute(hstore).await.is_ok() {
        columns.extend(HSTORE);
    }
    let definitions: Vec<String> = columns.iter().enumerate().map(|(i, (of, _))| format!("c{i} {of}")).collect();
    let table = format!("CREATE TABLE users (id int8 PRIMARY KEY, at timestamptz, {})", definitions.join(", "));
    client.batch_execute(&table).await.unwrap();
    // The server's random numbers depend on the seed, too.
    client.batch_execute(&format!("SELECT setseed({})", (seed % 1000) as f64 / 1000.0)).await.unwrap();
    insert_rows(&client, &columns, &mut dice).await;

    let plan = load_plan(&client).await;
    let oracle: Vec<String> = texts(
        &client,
        "SELECT ((to_jsonb(u) - '{id}'::text[]) || jsonb_build_object('id', u.id::text, 'display_name', null,
             'primary_email', null, 'signed_up_at_millis',
             CASE WHEN isfinite(u.at) THEN floor(extract(epoch FROM u.at) * 1000)::int8 END))::text
         FROM users u ORDER BY u.id",
    )
    .await;
    let micros =
        texts(&client, "SELECT CASE WHEN isfinite(at) THEN (extract(epoch FROM at) * 1000000)::numeric(30)::text END FROM users ORDER BY id").await;
    let rows = copy_out(&client).await;
    assert_eq!((rows.len(), oracle.len()), (ROWS, ROWS));
    for ((row, oracle), micros) in rows.iter().zip(&oracle).zip(&micros) {
        let cells: Vec<Cell<'_>> = row.iter().map(|text| text.as_deref().map_or(Cell::Null, Cell::Text)).collect();
        let (tenant, user) = plan.insert(&cells).unwrap().unwrap();
        assert_eq!(tenant, TenantRef::Only);
        compare(&client, &user.raw_json, oracle, &plan).await;
        if let Some(at) = user.created_at.filter(|at| at.unix_millis_floor().is_some()) {
            assert_eq!((i128::from(at.0) + 946_684_800_000_000).to_string(), *micros);
            assert_eq!(parse_timestamp(std::str::from_utf8(row[1].as_deref().unwrap()).unwrap()), Some(at));
        }
    }
}

/// The server parses our text as a target would, and names the columns that differ.
async fn compare(client: &Client, ours: &str, oracle: &str, plan: &RowPlan) {
    let query = "SELECT coalesce(o.key, u.key), o.value::text, u.value::text
        FROM jsonb_each($1::text::jsonb) o FULL JOIN jsonb_each($2::text::jsonb) u USING (key)
        WHERE o.value::text IS DISTINCT FROM u.value::text";
    let differences = client.query(query, &[&oracle, &ours]).await;
    let differences = differences.unwrap_or_else(|error| panic!("{error:?}: {ours}"));
    for row in &differences {
        let (key, oracle, ours): (&str, Option<&str>, Option<&str>) = (row.get(0), row.get(1), row.get(2));
        eprintln!("{key}: to_jsonb {oracle:?}, ours {ours:?}");
    }
    assert!(differences.is_empty(), "{} columns leave", plan.exposed_columns().count());
}

async fn insert_rows(client: &Client, columns: &[(&str, &[&str])], dice: &mut Dice) {
    /// Rows per statement.
    const BATCH: usize = 50;
    for batch in 0..ROWS / BATCH {
        let rows = (0..BATCH).map(|i| {
            let mut value = |of: &str, ways: &[&str]| match dice.below(NULLS) {
                0 => format!("NULL::{of}"),
                _ => format!("({})::{of}", ways[dice.below(ways.len() as u64) as usize]),
            };
            let at = value("timestamptz", &["any_time()", "any_time()", "'infinity'", "'0044-03-15 12:00:00.5+00 BC'"]);
            let values: Vec<String> = columns.iter().map(|(of, ways)| value(of, ways)).collect();
            format!("({}, {at}, {})", batch * BATCH + i, values.join(", "))
        });
        let rows: Vec<String> = rows.collect();
        let insert = format!("INSERT INTO users VALUES {}", rows.join(", "));
        client.batch_execute(&insert).await.unwrap_or_else(|error| panic!("{:?}", error.as_db_error()));
    }
}

async fn load_plan(client: &Client) -> RowPlan {
    let query = "SELECT attname::text, atttypid FROM pg_attribute
        WHERE attrelid = 'users'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
    let rows = client.query(query, &[]).await.unwrap();
    let columns: Vec<Column> = rows
        .iter()
        .map(|row| Column { name: row.get(0), type_oid: row.get(1), in_identity: row.get::<_, &str>(0) == "id" })
        .collect();
    let wanted: Vec<Oid> = columns.iter().map(|column| column.type_oid).collect();
    let types = users_sync::pg::load_types(client, &wanted).await.unwrap();
    let table = TableName { schema: "public".to_owned(), name: "users".to_owned() };
    let rules = Rules {
        table: table.clone(),
        id: Value::Column("id".to_owned()),
        name: None,
        email: None,
        created_at: Some(Value::Column("at".to_owned())),
        updated_at: None,
        deleted_at: None,
        tenant: None,
        filter: None,
        allow: None,
        exclude: Vec::new(),
        query: None,
        redactions: Default::default(),
    };
    let relation = Relation { oid: 1, table, replica_identity: ReplicaIdentity::Default, columns, leaves: Vec::new() };
    RowPlan::compile(&rules, &relation, &types).unwrap()
}

async fn texts(client: &Client, query: &str) -> Vec<String> {
    let rows = client.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_default()).collect()
}

/// COPY text uses the types' output functions, as pgoutput does. Undoes COPY's own escapes.
async fn copy_out(client: &Client) -> Vec<Vec<Option<Vec<u8>>>> {
    let stream = client.copy_out("COPY (SELECT * FROM users ORDER BY id) TO STDOUT").await.unwrap();
    let lines: Vec<_> = stream.try_collect().await.unwrap();
    let fields = |line: &[u8]| line.strip_suffix(b"\n").unwrap().split(|&b| b == b'\t').map(unescape).collect();
    lines.iter().map(|line| fields(line)).collect()
}

fn unescape(field: &[u8]) -> Option<Vec<u8>> {
    if field == b"\\N" {
        return None;
    }
    let mut text = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(&byte) = bytes.next() {
        text.push(match byte {
            b'\\' => match bytes.next().unwrap() {
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 11,
                other => *other,
            },
            byte => byte,
        });
    }
    Some(text)
}

/// SplitMix64: small and identical on every platform.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}
