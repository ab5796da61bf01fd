//! The random table of a round and its random DDL.

use super::{HANGING, TENANTS};
use crate::support::USERS;
use fastrand::Rng;

const REGIONS: [&str; 3] = ["eu", "us", "za"];
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
    count: u32,
    attached: Vec<String>,
    detached: Vec<String>,
}

impl Scene {
    pub(super) fn new(mut rng: Rng) -> Scene {
        let regions = &REGIONS[..rng.usize(1..=3)];
        let is_mild = rng.bool();
        Scene { rng, regions, is_mild, count: 0, attached: Vec::new(), detached: Vec::new() }
    }

    pub(super) fn describe(&self) -> String {
        if self.is_partitioned() {
            format!("with {} partitions", self.regions.len())
        } else {
            "without partitions".into()
        }
    }

    pub(super) fn regions(&self) -> &'static [&'static str] {
        self.regions
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
            3..10 => Step::Sql(self.column()),
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
        let attached = some(&mut self.rng, &self.attached);
        let region = |leaf: &str| leaf.trim_start_matches("users_").to_owned();
        match self.rng.u8(..6) {
            0 => {
                let name = format!("users_r{}", self.count);
                self.attached.push(name.clone());
                let region = region(&name);
                let full = self.pick(if self.is_mild { &["FULL"] } else { &["FULL", "DEFAULT"] });
                format!(
                    "BEGIN; CREATE TABLE auth.{name} PARTITION OF auth.users FOR VALUES IN ('{region}');
                     ALTER TABLE auth.{name} REPLICA IDENTITY {full}; COMMIT"
                )
            }
            1 => {
                let name = format!("users_r{}", self.count);
                let region = region(&name);
                self.attached.push(name.clone());
                let full = self.pick(if self.is_mild { &["FULL"] } else { &["FULL", "DEFAULT"] });
                format!(
                    "CREATE TABLE auth.{name} (LIKE auth.users INCLUDING ALL); ALTER TABLE auth.{name} REPLICA IDENTITY {full};
                     INSERT INTO auth.{name} (id, org, region, updated_at) SELECT '{region}-' || n, 'acme', '{region}', now() FROM generate_series(1, 5) n;
                     ALTER TABLE auth.users ATTACH PARTITION auth.{name} FOR VALUES IN ('{region}')"
                )
            }
            2 => {
                let Some(name) = attached else { return "SELECT 1".into() };
                self.attached.retain(|other| *other != name);
                self.detached.push(name.clone());
                format!("ALTER TABLE auth.users DETACH PARTITION auth.{name}")
            }
            3 => {
                let Some(name) = some(&mut self.rng, &self.detached) else { return "SELECT 1".into() };
                self.detached.retain(|other| *other != name);
                self.attached.push(name.clone());
                format!("ALTER TABLE auth.users ATTACH PARTITION auth.{name} FOR VALUES IN ('{}')", region(&name))
            }
            4 => {
                let Some(name) = attached else { return "SELECT 1".into() };
                format!("TRUNCATE auth.{name}")
            }
            _ => {
                let Some(name) = attached else { return "SELECT 1".into() };
                self.attached.retain(|other| *other != name);
                format!("DROP TABLE auth.{name}")
            }
        }
    }

    fn whole_table(&mut self) -> String {
        let kinds = if self.is_mild { 5 } else { 6 };
        match self.rng.u8(..kinds) {
            0 => "TRUNCATE auth.users".into(),
            1 => "BEGIN; DELETE FROM auth.users WHERE id LIKE '%1'; TRUNCATE auth.users; \
                  INSERT INTO auth.users (id, org, updated_at) VALUES ('eu-after', 'globex', now()); COMMIT"
                .into(),
            2 | 3 => "VACUUM FULL auth.users".into(),
            4 => {
                "BEGIN; ALTER TABLE auth.users RENAME TO people; ALTER TABLE auth.people RENAME TO users; COMMIT".into()
            }
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
        match self.rng.u8(..7) {
            0 => "ALTER PUBLICATION users_sync SET (publish = 'insert, update')".into(),
            1 => "ALTER PUBLICATION users_sync SET (publish = 'insert, update, delete, truncate')".into(),
            2 => "ALTER PUBLICATION users_sync DROP TABLE auth.users".into(),
            3 => "ALTER PUBLICATION users_sync SET TABLE auth.users WHERE (org <> 'acme')".into(),
            4 => "ALTER PUBLICATION users_sync SET TABLE auth.users (id, org)".into(),
            5 => "ALTER PUBLICATION users_sync SET (publish_via_partition_root = false)".into(),
            _ => "DROP PUBLICATION users_sync; CREATE PUBLICATION users_sync FOR TABLE auth.users".into(),
        }
    }

    /// What no remedy can know: the table's name.
    pub(super) fn undo(&self) -> Vec<String> {
        vec!["ALTER TABLE IF EXISTS auth.people RENAME TO users".to_owned()]
    }
}
