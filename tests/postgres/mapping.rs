//! Random tables, mappings and workloads, with both kinds of mapping. At the end every target equals the result of SQL that
//! is generated beside the mapping, not from it. Prints its seed; `USERS_SYNC_SEED=<number>` repeats a run.

use crate::support::{Bed, DEADLINE, Row, Service, pause};
use fastrand::Rng;
use std::time::Instant;
use users_sync::map::{Filter, Query, Rules, TimeUnit, Value, Watch};
use users_sync::model::TableName;

const CASES: usize = 8;
const TENANTS: [&str; 2] = ["t0", "t1"];

/// A column type, and SQL expressions for its values.
const TYPES: [(&str, &[&str]); 14] = [
    ("text", &["''", "'a'", "'Änn \"q\" \\ 😀'", "'x'", "repeat('long', 3)"]),
    ("varchar(9)", &["''", "'a'", "'varied'"]),
    ("char(6)", &["''", "'pad'", "'sixsix'"]),
    ("int", &["0", "1", "-5"]),
    ("numeric", &["0.10", "'NaN'", "12345678901234567890.5"]),
    ("float8", &["0.1", "'Infinity'", "-0.0", "1e300"]),
    ("bool", &["true", "false"]),
    ("timestamptz", &["'2024-02-29 12:00:00.123456+02'", "'infinity'", "'0044-03-15 00:00:00+00 BC'"]),
    ("timestamp", &["'2024-02-29 12:00:00.5'", "'1969-12-31 23:59:59.999999'"]),
    ("date", &["'2024-02-29'", "'-infinity'"]),
    (
        "jsonb",
        &[
            "'{\"k\": \"v\", \"n\": 5, \"deep\": {\"k\": true, \"s\": \"t\"}}'",
            "'{\"k\": \"\"}'",
            "'{\"list\": [{\"k\": 1}]}'",
            "'null'",
            "'\"s\"'",
        ],
    ),
    ("json", &["'{\"k\": \"v\", \"k\": \"last\", \"n\": [1,  2]}'", "'{\"k\": null}'"]),
    ("text[]", &["'{}'", "ARRAY['a', NULL, 'b,c \"']", "'{{a,b},{c,d}}'"]),
    ("bytea", &["'\\x00ff'", "''"]),
];

struct Column {
    name: String,
    kind: usize,
}

/// A value of the mapping, and the same in SQL.
struct Mapped(Value, String);

struct Case {
    columns: Vec<Column>,
    rules: Rules,
    /// The SELECT of the expected users of a tenant (`$1`).
    expected: String,
    /// Whether old rows carry all columns.
    full: bool,
}

fn literal(rng: &mut Rng, kind: usize) -> &'static str {
    let values = TYPES[kind].1;
    if rng.u8(..5) == 0 { "NULL" } else { values[rng.usize(..values.len())] }
}

impl Case {
    fn random(rng: &mut Rng, query: bool) -> Case {
        let names =
            ["plain", "Camel", "with space", "api_token", "pw_hash", "display_name", "kind", "a\"b", "note", "x.y"];
        let columns: Vec<Column> = names[..rng.usize(4..=names.len())]
            .iter()
            .map(|name| Column { name: (*name).to_owned(), kind: rng.usize(..TYPES.len()) })
            .collect();
        // Id and tenant must be found in old rows. A json path is in them only if they are complete.
        let full = query || rng.bool();
        let (id, tenant) = ids(rng, query);
        let text = |rng: &mut Rng| text(rng, &columns, 2);
        let (name, email) = (text(rng), text(rng));
        let (created, updated, deleted) = (created(rng), rng.bool(), rng.bool());
        let filter = rng.bool().then(|| condition(rng, &columns, 2));
        let mut exclude: Vec<String> = Vec::new();
        let mut document = "to_jsonb(u)".to_owned();
        for column in &columns {
            if rng.u8(..6) == 0 {
                exclude.push(column.name.clone());
            } else if ["json", "jsonb"].contains(&TYPES[column.kind].0) && rng.bool() {
                exclude.push(format!("{}.deep.k", column.name));
                document = format!("({document} #- ARRAY[{}, 'deep', 'k'])", sql_text(&column.name));
            }
        }
        let allow = rng.bool().then(|| {
            let mut allowed: Vec<_> = columns.iter().filter(|_| rng.bool()).map(|c| c.name.clone()).collect();
            allowed.push("seq".into());
            allowed
        });
        let base = ["id", "code", "org", "seq", "created", "created_ms", "created_text", "updated", "deleted"];
        let all = base.iter().map(|name| (*name).to_owned()).chain(columns.iter().map(|column| column.name.clone()));
        let stays = |name: &String| {
            exclude.contains(name)
                || ["id", "display_name"].contains(&name.as_str())
                || match &allow {
                    Some(allow) => !allow.contains(name),
                    None => ["api_token", "pw_hash"].contains(&name.as_str()),
                }
        };
        let gone: Vec<_> = all.filter(stays).map(|name| sql_text(&name)).collect();
        let gone = if gone.is_empty() { String::new() } else { format!(" - ARRAY[{}]", gone.join(", ")) };
        let (name_sql, email_sql) = (&name.1, &email.1);
        let expected = format!(
            "SELECT {id}, (({document}{gone}) || jsonb_build_object('id', {id}, 'display_name', {name_sql}, 'primary_email', {email_sql},
                'signed_up_at_millis', CASE WHEN isfinite({created}) THEN floor(extract(epoch FROM {created}) * 1000)::bigint END))::text,
               {name_sql}, {email_sql}, ({created})::text, {updated}, {deleted}
             FROM store.users u WHERE {tenant} = $1 AND ({filter})",
            id = id.1,
            tenant = tenant.1,
            created = created.1,
            updated = if updated { "coalesce(updated::text, '*')" } else { "'*'" },
            deleted = if deleted { "deleted::text" } else { "NULL" },
            filter = filter.as_ref().map_or("true", |(_, sql)| sql),
        );
        let table = TableName { schema: "store".into(), name: "users".into() };
        let own = || Watch {
            table: table.clone(),
            key: vec!["id".into()],
            tenant: Some(tenant.0.clone()),
            is_users_own: true,
            via: None,
        };
        let query = query.then(|| Query {
            sql: "SELECT * FROM store.users".into(),
            key: vec!["id".into()],
            watch: vec![own()],
            distinct: Vec::new(),
        });
        let column = |name: &str| Value::Column(name.to_owned());
        let rules = Rules {
            id: id.0,
            name: Some(name.0),
            email: Some(email.0),
            created_at: Some(created.0),
            updated_at: updated.then(|| column("updated")),
            deleted_at: deleted.then(|| column("deleted")),
            tenant: Some(tenant.0.clone()),
            filter: filter.map(|(filter, _)| filter),
            allow,
            exclude,
            query,
            table: table.clone(),
            redactions: Default::default(),
        };
        Case { columns, rules, expected, full }
    }

    fn create(&self) -> String {
        let columns: String =
            self.columns.iter().map(|column| format!(", {} {}", ident(&column.name), TYPES[column.kind].0)).collect();
        let identity = if self.full { "ALTER TABLE store.users REPLICA IDENTITY FULL" } else { "" };
        format!(
            "DROP SCHEMA IF EXISTS store CASCADE; CREATE SCHEMA store;
             CREATE TABLE store.users (id int NOT NULL, code text NOT NULL, org text NOT NULL, seq bigserial, created timestamptz,
               created_ms bigint, created_text text, updated timestamptz, deleted timestamptz{columns},
               PRIMARY KEY (id, code, org)); {identity}"
        )
    }

    /// One row's values for some random columns.
    fn assignments(&self, rng: &mut Rng) -> Vec<(String, &'static str)> {
        let times = ["NULL", "'2024-01-01 00:00:00.123456+00'", "now()", "'infinity'"];
        let mut set = Vec::new();
        for column in &self.columns {
            if rng.bool() {
                set.push((ident(&column.name), literal(rng, column.kind)));
            }
        }
        for (name, values) in [
            ("created", &times[..]),
            ("created_ms", &["0", "NULL", "1704067200123", "-1"][..]),
            ("created_text", &["''", "NULL", "'2024-01-01T02:00:00+02:00'", "'2024-01-01T00:00:00.5Z'"]),
            ("updated", &["NULL", "now()", "'2001-01-01'"]),
            ("deleted", &["NULL", "NULL", "NULL", "'2025-01-01'"]),
        ] {
            if rng.u8(..3) == 0 {
                set.push((name.to_owned(), values[rng.usize(..values.len())]));
            }
        }
        set
    }

    fn statement(&self, rng: &mut Rng) -> String {
        let id = rng.usize(1..=40);
        match rng.u8(..10) {
            0..=3 => {
                let set = self.assignments(rng);
                let names: String = set.iter().map(|(name, _)| format!(", {name}")).collect();
                let values: String = set.iter().map(|(_, value)| format!(", {value}")).collect();
                let org = ["t0", "t1", "unlisted"][rng.usize(..3)];
                // One row per id. Its code and tenant change through updates only.
                format!(
                    "INSERT INTO store.users (id, code, org{names}) SELECT {id}, 'c{id}', '{org}'{values}
                     WHERE NOT EXISTS (SELECT FROM store.users WHERE id = {id})"
                )
            }
            4..=6 => {
                let set: Vec<_> =
                    self.assignments(rng).into_iter().map(|(name, value)| format!("{name} = {value}")).collect();
                let set = if set.is_empty() { "seq = seq + 1".to_owned() } else { set.join(", ") };
                format!("UPDATE store.users SET {set} WHERE id % 3 = {}", id % 3)
            }
            7 => format!("UPDATE store.users SET org = '{}' WHERE id = {id}", ["t0", "t1", "unlisted"][rng.usize(..3)]),
            8 => format!("UPDATE store.users SET code = code || 'r' WHERE id = {id}"),
            _ => format!("DELETE FROM store.users WHERE id = {id}"),
        }
    }
}

fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn sql_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Id and tenant, from columns that every old row carries.
fn ids(rng: &mut Rng, query: bool) -> (Mapped, Mapped) {
    let column = |name: &str| Value::Column(name.to_owned());
    let id = if rng.bool() || query {
        Mapped(column("id"), "id::text".into())
    } else {
        Mapped(
            Value::Join { parts: vec![column("org"), column("id"), column("code")], with: "/".into() },
            "org || '/' || id || '/' || code".into(),
        )
    };
    (id, Mapped(column("org"), "org".into()))
}

/// A text value of any shape, up to this depth.
fn text(rng: &mut Rng, columns: &[Column], depth: usize) -> Mapped {
    let column = &columns[rng.usize(..columns.len())];
    match rng.u8(..if depth == 0 { 1 } else { 4 }) {
        0 | 1 => one(rng, column),
        2 => {
            let parts: Vec<Mapped> = (0..rng.usize(1..4)).map(|_| text(rng, columns, depth - 1)).collect();
            let sql = parts.iter().map(|part| part.1.clone()).collect::<Vec<_>>().join(", ");
            Mapped(Value::First(parts.into_iter().map(|part| part.0).collect()), format!("coalesce({sql})"))
        }
        _ => {
            let parts: Vec<Mapped> = (0..rng.usize(1..4)).map(|_| text(rng, columns, depth - 1)).collect();
            let sql = parts.iter().map(|part| part.1.clone()).collect::<Vec<_>>().join(", ");
            let value = Value::Join { parts: parts.into_iter().map(|part| part.0).collect(), with: ", ".into() };
            Mapped(value, format!("nullif(concat_ws(', ', {sql}), '')"))
        }
    }
}

/// A column, or a path into it.
fn one(rng: &mut Rng, column: &Column) -> Mapped {
    let name = ident(&column.name);
    let scalar = |sql: String| {
        format!(
            "(CASE WHEN jsonb_typeof({sql}) IN ('string', 'number', 'boolean') THEN nullif({sql} #>> '{{}}', '') END)"
        )
    };
    match TYPES[column.kind].0 {
        "json" | "jsonb" => {
            let path = ["k", "n", "deep.s", "none"][rng.usize(..4)];
            let keys = path.replace('.', ",");
            // In SQL, `->` with a key into an array is null, too.
            Mapped(Value::Column(format!("{}.{path}", column.name)), scalar(format!("({name}::jsonb #> '{{{keys}}}')")))
        }
        _ => Mapped(Value::Column(column.name.clone()), format!("nullif({name}::text, '')")),
    }
}

fn created(rng: &mut Rng) -> Mapped {
    let time = |column: &str, unit| Value::Time { column: column.to_owned(), unit };
    let native = Mapped(Value::Column("created".into()), "created".into());
    let millis = Mapped(time("created_ms", TimeUnit::Millis), "to_timestamp(nullif(created_ms, 0) / 1000.0)".into());
    let text = Mapped(time("created_text", TimeUnit::Rfc3339), "nullif(created_text, '')::timestamptz".into());
    match rng.u8(..4) {
        0 => native,
        1 => millis,
        2 => text,
        _ => Mapped(
            Value::First(vec![text.0, millis.0, native.0]),
            format!("coalesce({}, {}, {})", text.1, millis.1, native.1),
        ),
    }
}

/// A condition for the mapping, and the same in SQL.
fn condition(rng: &mut Rng, columns: &[Column], depth: usize) -> (Filter, String) {
    let column = &columns[rng.usize(..columns.len())];
    let (name, sql) = (column.name.clone(), format!("{}::text", ident(&column.name)));
    let is_json = ["json", "jsonb"].contains(&TYPES[column.kind].0);
    match rng.u8(..if depth == 0 { 2 } else { 5 }) {
        0 if !is_json => {
            let values = vec!["a".to_owned(), String::new(), "true".to_owned(), "1".to_owned()];
            let list: Vec<_> = values.iter().map(|value| sql_text(value)).collect();
            (Filter::In(name, values), format!("{sql} IN ({})", list.join(", ")))
        }
        0 | 1 if is_json => {
            let path = format!("{}::jsonb #>> '{{k}}'", ident(&column.name));
            (Filter::In(format!("{name}.k"), vec!["v".into(), "last".into()]), format!("{path} IN ('v', 'last')"))
        }
        0 | 1 => (Filter::IsNull(name), format!("{} IS NULL", ident(&column.name))),
        2 => {
            let (part, sql) = condition(rng, columns, depth - 1);
            (Filter::Not(Box::new(part)), format!("NOT ({sql})"))
        }
        n => {
            let ((a, a_sql), (b, b_sql)) = (condition(rng, columns, depth - 1), condition(rng, columns, depth - 1));
            match n {
                3 => (Filter::And(vec![a, b]), format!("(({a_sql}) AND ({b_sql}))")),
                _ => (Filter::Or(vec![a, b]), format!("(({a_sql}) OR ({b_sql}))")),
            }
        }
    }
}

async fn rows(bed: &Bed, database: &str, sql: &str) -> Vec<Row> {
    let rows = bed.query(database, sql).await;
    rows.into_iter().map(|row| row.try_into().unwrap()).collect()
}

/// Waits until the targets are as expected. Returns the number of users.
async fn equal(bed: &Bed, service: &Service, case: &Case, after: &str) -> usize {
    let mut users = 0;
    for tenant in TENANTS {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let expected = rows(bed, "auth", &case.expected.replace("$1", &format!("'{tenant}'"))).await;
            let there = bed.query(tenant, "SELECT to_regclass('neon_auth.users_sync')").await;
            let held = match there[0][0] {
                Some(_) => {
                    let sql =
                        "SELECT id, raw_json::text, name, email, created_at::text, updated_at::text, deleted_at::text
                               FROM neon_auth.users_sync";
                    rows(bed, tenant, sql).await
                }
                None => Vec::new(),
            };
            let mut wrong: Vec<String> = Vec::new();
            for row in &expected {
                let mut found = held.iter().find(|held| held[0] == row[0]).cloned();
                if let (Some(found), Some("*")) = (found.as_mut(), row[5].as_deref()) {
                    found[5] = row[5].clone();
                }
                if found.as_ref() != Some(row) {
                    wrong.push(format!("expected {row:?}\n    held {found:?}"));
                }
            }
            let live = held.iter().filter(|held| held[6].is_none());
            wrong.extend(
                live.filter(|held| !expected.iter().any(|row| row[0] == held[0])).map(|held| format!("extra {held:?}")),
            );
            if wrong.is_empty() {
                users += expected.len();
                break;
            }
            if Instant::now() > deadline || !service.is_running() {
                panic!(
                    "{tenant} after {after} (running: {}): {}\n{:?}\n{}",
                    service.is_running(),
                    wrong.join("\n"),
                    case.rules,
                    case.expected
                );
            }
            pause().await;
        }
    }
    users
}

#[tokio::test(flavor = "multi_thread")]
async fn random_mappings_agree_with_sql() {
    let seed =
        std::env::var("USERS_SYNC_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("USERS_SYNC_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let mut users = 0;
    for n in 0..CASES {
        let bed = Bed::start(&TENANTS).await;
        let case = Case::random(&mut rng, n % 2 == 1);
        bed.auth(&case.create()).await;
        let work = async |rng: &mut Rng, statements: usize| {
            let mut left = statements;
            while left > 0 {
                // Several statements in one query are one transaction.
                let together = rng.usize(1..=5).min(left);
                let sql: Vec<_> = (0..together).map(|_| case.statement(rng)).collect();
                bed.auth(&sql.join(";\n")).await;
                left -= together;
            }
        };
        work(&mut rng, 60).await;
        let mut config = bed.config();
        config.users = case.rules.clone();
        let service = Service::start(config.clone());
        work(&mut rng, 40).await;
        equal(&bed, &service, &case, &format!("case {n}")).await;
        work(&mut rng, 150).await;
        users += equal(&bed, &service, &case, &format!("case {n}, streamed")).await;
        // Kill the process in the middle of it, and start it again.
        let mut service = service;
        for _ in 0..3 {
            work(&mut rng, 20).await;
            service.kill().await;
            service = Service::start(config.clone());
        }
        service.stop().await;
        work(&mut rng, 40).await;
        let service = Service::start(config);
        equal(&bed, &service, &case, &format!("case {n}, started again")).await;
        service.stop().await;
    }
    println!("{users} users were compared in {CASES} cases");
    assert!(users >= CASES, "the cases had no users");
}
