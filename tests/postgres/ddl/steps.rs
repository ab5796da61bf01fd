//! The random table of a round and its random DDL.

use super::{HANGING, TENANTS};
use crate::support::USERS;
use fastrand::Rng;

const REGIONS: [&str; 3] = ["eu", "us", "za"];
/// Partitions of these regions come and go.
pub(super) const OTHER_REGIONS: [&str; 3] = ["p0", "p1", "p2"];
/// Makes users of a query mapping depend on a second table.
pub(super) const QUERY: &str =
    "SELECT u.*, (SELECT max(e.address) FROM auth.emails e WHERE e.user_id = u.id) AS address FROM auth.users u";
/// Types of the columns that no mapped value depends on, with an expression that converts any text.
const TYPES: [(&str, &str); 7] = [
    ("text", "{}::text"),
    ("varchar(7)", "left({}::text, 7)"),
    ("int", "length({}::text)"),
    ("numeric(10, 2)", "length({}::text)"),
    ("numeric(10, 3)", "length({}::text) / 7.0"),
    ("jsonb", "to_jsonb({})"),
    ("text[]", "ARRAY[{}::text]"),
];

pub(super) enum Step {
    Sql(String),
    Restart,
    Resync(&'static str),
}

/// What the next statements depend on. A statement that fails is no fault: the catalogs have the truth.
pub(super) struct Scene {
    rng: Rng,
    regions: &'static [&'static str],
    /// Whether statements are left out that have to be refused. Their remedies cause resyncs, which would hide other faults.
    is_mild: bool,
    has_query: bool,
    /// `server_version_num / 10000`.
    major: i32,
    count: u32,
    attached: Vec<String>,
    detached: Vec<String>,
}

impl Scene {
    pub(super) fn new(mut rng: Rng, major: i32) -> Scene {
        let regions = &REGIONS[..rng.usize(1..=3)];
        let (is_mild, has_query) = (rng.bool(), rng.u8(..3) == 0);
        Scene { rng, regions, is_mild, has_query, major, count: 0, attached: Vec::new(), detached: Vec::new() }
    }

    pub(super) fn describe(&self) -> String {
        let partitions = if self.is_partitioned() { self.regions.len() } else { 0 };
        let (query, kind) = (if self.has_query { ", a query" } else { "" }, if self.is_mild { ", mild" } else { "" });
        format!("PostgreSQL {}, {partitions} partitions{query}{kind}", self.major)
    }

    /// Where users are written. Some of the regions may have no partition.
    pub(super) fn regions(&self) -> Vec<&'static str> {
        if self.is_partitioned() { [self.regions, &OTHER_REGIONS].concat() } else { self.regions.to_vec() }
    }

    pub(super) fn has_query(&self) -> bool {
        self.has_query
    }

    fn is_partitioned(&self) -> bool {
        self.regions.len() > 1
    }

    /// The statements that make the first table, its types and users.
    pub(super) fn tables(&mut self) -> Vec<String> {
        let mut sql = Vec::new();
        if self.is_partitioned() {
            sql.push(USERS.replace("CREATE SCHEMA auth;", "DROP TABLE auth.users;").replace(
                "PRIMARY KEY (id, org)\n    )",
                "region text NOT NULL DEFAULT 'eu', PRIMARY KEY (id, region)) PARTITION BY LIST (region)",
            ));
            for region in self.regions {
                sql.push(format!(
                    "CREATE TABLE auth.users_{region} PARTITION OF auth.users FOR VALUES IN ('{region}')"
                ));
                sql.push(format!("ALTER TABLE auth.users_{region} REPLICA IDENTITY FULL"));
            }
            self.attached = self.regions.iter().map(|region| format!("users_{region}")).collect();
        }
        sql.push(
            "CREATE TYPE auth.mood AS ENUM ('sad', 'happy'); CREATE TYPE auth.place AS (city text, zip text);
             ALTER TABLE auth.users ADD mood auth.mood DEFAULT 'sad', ADD place auth.place DEFAULT ROW('Oslo', '0150'),
               ADD places auth.place[] DEFAULT ARRAY[ROW('Rome', '00100')]::auth.place[], ADD x0 text DEFAULT 'zero'"
                .to_owned(),
        );
        if self.has_query {
            sql.push(
                "CREATE TABLE auth.emails (user_id text PRIMARY KEY, address text);
                 INSERT INTO auth.emails SELECT 'eu' || n, n || '@example.org' FROM generate_series(0, 29) n"
                    .to_owned(),
            );
        }
        if self.major >= 15 && self.rng.bool() {
            sql.push(
                "CREATE PUBLICATION users_sync FOR TABLES IN SCHEMA auth WITH (publish_via_partition_root = true)"
                    .into(),
            );
        }
        let (column, region) = if self.is_partitioned() { (", region", ", r") } else { ("", "") };
        let orgs = [&TENANTS[..], &[HANGING]].concat().join("', '");
        sql.push(format!(
            "INSERT INTO auth.users (id, org, first_name, email, updated_at{column})
             SELECT r || n, (ARRAY['{orgs}'])[1 + n % 4], 'Ann', 'A' || n || '@Example.org', now(){region}
             FROM generate_series(0, 29) n, unnest(ARRAY['{}']) r",
            self.regions.join("', '")
        ));
        sql
    }

    pub(super) fn next(&mut self) -> Step {
        let kinds = if self.is_mild { 17 } else { 20 };
        match self.rng.u8(..kinds) {
            0..2 => Step::Restart,
            2 => Step::Resync(TENANTS[self.rng.usize(..TENANTS.len())]),
            3..9 => Step::Sql(self.column()),
            9 if self.has_query => Step::Sql(self.second_table()),
            9 => Step::Sql(self.mapped_type()),
            10..12 => Step::Sql(self.value_type()),
            12..16 if self.is_partitioned() => Step::Sql(self.partition()),
            12..17 => Step::Sql(self.whole_table()),
            17 => Step::Sql(self.identity()),
            _ => Step::Sql(self.publication()),
        }
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.rng.usize(..choices.len())]
    }

    fn column(&mut self) -> String {
        let name = format!("x{}", self.rng.u8(..3));
        let other = format!("x{}", self.rng.u8(..3));
        let (kind, using) = TYPES[self.rng.usize(..TYPES.len())];
        let using = using.replace("{}", &name);
        self.count += 1;
        match self.rng.u8(..9) {
            0 => format!("ALTER TABLE auth.users ADD {name} text DEFAULT 'added {}'", self.count),
            1 => format!("ALTER TABLE auth.users DROP {name}"),
            2 => format!("ALTER TABLE auth.users RENAME {name} TO {other}"),
            3 | 4 => {
                format!("ALTER TABLE auth.users ALTER {name} DROP DEFAULT, ALTER {name} TYPE {kind} USING {using}")
            }
            5 => format!("ALTER TABLE auth.users DROP {name}, ADD {name} text DEFAULT 'again {}'", self.count),
            6 => format!("ALTER TABLE auth.users ADD {name} text GENERATED ALWAYS AS (id || '!') STORED"),
            7 => {
                let to = self.pick(&["lower(email)", "upper(email)", "email || '.'"]);
                let kind = self.pick(&["text", "varchar(90)", "varchar(80)"]);
                format!("ALTER TABLE auth.users ALTER email TYPE {kind} USING {to}")
            }
            _ => {
                let (from, to) = (self.pick(&["last_name", "first_name"]), self.count);
                format!(
                    "BEGIN; ALTER TABLE auth.users RENAME {from} TO was{to};
                     ALTER TABLE auth.users ADD {from} text DEFAULT 'new {to}'; COMMIT"
                )
            }
        }
    }

    /// Types of the columns that the mapping reads.
    fn mapped_type(&mut self) -> String {
        let kind = |rng: &mut Rng, kinds: &[&'static str]| kinds[rng.usize(..kinds.len())];
        match self.rng.u8(..4) {
            0 => {
                let kind = kind(&mut self.rng, &["timestamptz", "timestamptz(0)", "timestamptz(3)"]);
                format!("ALTER TABLE auth.users ALTER created_at TYPE {kind}")
            }
            1 => {
                let kind = kind(&mut self.rng, &["text", "varchar(40)", "varchar(50)", "text COLLATE \"C\""]);
                format!("ALTER TABLE auth.users ALTER org TYPE {kind}")
            }
            2 => {
                let kind = kind(&mut self.rng, &["text", "varchar(40)", "varchar(50)"]);
                format!("ALTER TABLE auth.users ALTER id TYPE {kind}")
            }
            _ => {
                let kind = kind(&mut self.rng, &["json", "jsonb"]);
                format!("ALTER TABLE auth.users ALTER profile TYPE {kind}, ALTER profile SET STORAGE EXTERNAL")
            }
        }
    }

    /// The table that only the query reads.
    fn second_table(&mut self) -> String {
        self.count += 1;
        match self.rng.u8(..5) {
            0 => "TRUNCATE auth.emails".into(),
            1 => "ALTER TABLE auth.emails ALTER address TYPE varchar(60) USING upper(address)".into(),
            2 => "ALTER TABLE auth.emails ALTER address TYPE text USING lower(address)".into(),
            3 => format!("ALTER TABLE auth.emails DROP address, ADD address text DEFAULT 'again {}'", self.count),
            _ => "VACUUM FULL auth.emails".into(),
        }
    }

    fn value_type(&mut self) -> String {
        self.count += 1;
        let count = self.count;
        let attribute = self.pick(&["city", "zip", "a0", "a1"]);
        match self.rng.u8(..5) {
            0 => format!(
                "DO $$ DECLARE label text := (SELECT enumlabel FROM pg_enum WHERE enumtypid = 'auth.mood'::regtype LIMIT 1);
                 BEGIN EXECUTE format('ALTER TYPE auth.mood RENAME VALUE %L TO %L', label, 'mood {count}'); END $$"
            ),
            1 => format!("ALTER TYPE auth.mood ADD VALUE 'more {count}'"),
            2 => format!("ALTER TYPE auth.place ADD ATTRIBUTE {attribute} text CASCADE"),
            3 => format!("ALTER TYPE auth.place DROP ATTRIBUTE {attribute} CASCADE"),
            _ => format!("ALTER TYPE auth.place RENAME ATTRIBUTE {attribute} TO a{} CASCADE", count % 2),
        }
    }

    fn partition(&mut self) -> String {
        self.count += 1;
        let some = |rng: &mut Rng, names: &[String]| names.get(rng.usize(..names.len().max(1))).cloned();
        let nothing = || "SELECT 1".to_owned();
        let region = |leaf: &str| leaf.trim_start_matches("users_").to_owned();
        let values = |leaf: &str| format!("FOR VALUES IN ('{}')", region(leaf));
        let new = OTHER_REGIONS[self.rng.usize(..OTHER_REGIONS.len())];
        let name = format!("users_{new}");
        let full = self.pick(if self.is_mild { &["FULL"] } else { &["FULL", "FULL", "DEFAULT"] });
        let kind = self.rng.u8(..13);
        let leaf = match kind {
            0..5 => Some(name.clone()),
            8 => some(&mut self.rng, &self.detached),
            _ => some(&mut self.rng, &self.attached),
        };
        let Some(leaf) = leaf else { return nothing() };
        let detach = format!("ALTER TABLE auth.users DETACH PARTITION auth.{leaf}");
        let attach = format!("ALTER TABLE auth.users ATTACH PARTITION auth.{leaf} {}", values(&leaf));
        match kind {
            0..5 | 8 => self.is_attached(&leaf),
            5..8 => self.is_detached(&leaf),
            12 => self.attached.retain(|other| *other != leaf),
            _ => {}
        }
        match kind {
            0 => format!(
                "BEGIN; CREATE TABLE auth.{name} PARTITION OF auth.users {};
                 ALTER TABLE auth.{name} REPLICA IDENTITY {full}; COMMIT",
                values(&name)
            ),
            1 => format!(
                "BEGIN; CREATE TABLE auth.{name} PARTITION OF auth.users {} PARTITION BY HASH (id);
                 CREATE TABLE auth.{name}_{1} PARTITION OF auth.{name} FOR VALUES WITH (MODULUS 1, REMAINDER 0);
                 ALTER TABLE auth.{name}_{1} REPLICA IDENTITY {full}; COMMIT",
                values(&name),
                self.count
            ),
            2..5 => {
                let begin = self.pick(&["", "BEGIN;"]);
                let commit = if begin.is_empty() { "" } else { "; COMMIT" };
                // Its columns have other numbers than the parent's.
                let order = self.pick(&["", "ALTER TABLE auth.NAME DROP email; ALTER TABLE auth.NAME ADD email text;"]);
                format!(
                    "{begin}CREATE TABLE auth.{name} (LIKE auth.users INCLUDING ALL); {}
                     ALTER TABLE auth.{name} REPLICA IDENTITY {full};
                     INSERT INTO auth.{name} (id, org, region, updated_at) SELECT '{new}-' || n, 'acme', '{new}', now()
                     FROM generate_series(1, 5) n;
                     {attach}{commit}",
                    order.replace("NAME", &name)
                )
            }
            5 => detach,
            6 => format!("{detach} CONCURRENTLY"),
            7 => format!("{detach}; UPDATE auth.{leaf} SET first_name = 'apart', updated_at = now()"),
            8 => attach,
            9 => format!("{detach}; DELETE FROM auth.{leaf} WHERE id LIKE '%2'; {attach}"),
            10 => format!("TRUNCATE auth.{leaf}"),
            11 => format!("VACUUM FULL auth.{leaf}"),
            _ => format!("DROP TABLE auth.{leaf}"),
        }
    }

    fn is_attached(&mut self, leaf: &str) {
        self.detached.retain(|other| other != leaf);
        self.attached.retain(|other| other != leaf);
        self.attached.push(leaf.to_owned());
    }

    fn is_detached(&mut self, leaf: &str) {
        self.attached.retain(|other| other != leaf);
        self.detached.retain(|other| other != leaf);
        self.detached.push(leaf.to_owned());
    }

    fn whole_table(&mut self) -> String {
        let kinds = if self.is_mild { 8 } else { 10 };
        match self.rng.u8(..kinds) {
            0 => "TRUNCATE auth.users".into(),
            1 => "BEGIN; DELETE FROM auth.users WHERE id LIKE '%1'; TRUNCATE auth.users; \
                  INSERT INTO auth.users (id, org, updated_at) VALUES ('eu-after', 'globex', now()); COMMIT"
                .into(),
            2 | 3 => "VACUUM FULL auth.users".into(),
            4 => {
                "BEGIN; ALTER TABLE auth.users RENAME TO people; ALTER TABLE auth.people RENAME TO users; COMMIT".into()
            }
            5 => "CLUSTER auth.users USING users_pkey".into(),
            6 => "UPDATE auth.users SET first_name = NULL, updated_at = now() WHERE id LIKE '%3'".into(),
            7 => "BEGIN; TRUNCATE auth.users; ROLLBACK".into(),
            8 if self.is_partitioned() => "ALTER TABLE auth.users_eu SET UNLOGGED".into(),
            8 => "ALTER TABLE auth.users RENAME org TO tenant".into(),
            _ => "ALTER TABLE auth.users RENAME TO people".into(),
        }
    }

    fn identity(&mut self) -> String {
        let leaf = (!self.attached.is_empty()).then(|| self.attached[self.rng.usize(..self.attached.len())].clone());
        let table = leaf.unwrap_or_else(|| "users".to_owned());
        self.count += 1;
        match self.pick(&["FULL", "FULL", "DEFAULT", "NOTHING", "INDEX"]) {
            "INDEX" => format!(
                "CREATE UNIQUE INDEX identity{0} ON auth.{table} (id, org);
                 ALTER TABLE auth.{table} REPLICA IDENTITY USING INDEX identity{0}",
                self.count
            ),
            kind => format!("ALTER TABLE auth.{table} REPLICA IDENTITY {kind}"),
        }
    }

    fn publication(&mut self) -> String {
        match self.rng.u8(..10) {
            0 => "ALTER PUBLICATION users_sync SET (publish = 'insert, update')".into(),
            1 => "ALTER PUBLICATION users_sync SET (publish = 'insert, update, delete, truncate')".into(),
            2 => "ALTER PUBLICATION users_sync DROP TABLE auth.users".into(),
            3 => "ALTER PUBLICATION users_sync SET TABLE auth.users WHERE (org <> 'acme')".into(),
            4 => "ALTER PUBLICATION users_sync SET TABLE auth.users (id, org)".into(),
            5 => "ALTER PUBLICATION users_sync SET (publish_via_partition_root = false)".into(),
            6 => "ALTER PUBLICATION users_sync SET TABLES IN SCHEMA auth".into(),
            7 => "ALTER PUBLICATION users_sync ADD TABLES IN SCHEMA auth".into(),
            8 => "ALTER PUBLICATION users_sync SET TABLES IN SCHEMA public".into(),
            _ => "DROP PUBLICATION users_sync; CREATE PUBLICATION users_sync FOR TABLE auth.users".into(),
        }
    }

    /// What no remedy can know: the names of the table and of the tenant's column.
    pub(super) fn undo(&self) -> [&'static str; 2] {
        [
            "ALTER TABLE IF EXISTS auth.people RENAME TO users",
            "DO $$ BEGIN ALTER TABLE auth.users RENAME tenant TO org; EXCEPTION WHEN undefined_column THEN END $$",
        ]
    }
}
