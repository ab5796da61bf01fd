//! Random handovers of unique values between users, to targets with different constraints. When all is written, each target
//! holds every user whom its constraints allow. `USERS_SYNC_SEED=<number>` chooses the operations, and
//! `USERS_SYNC_ROUNDS=<number>` how many transactions there are.

use crate::support::{Bed, GENERATED, PLAIN, Row, Service, let_pass, pause};
use fastrand::Rng;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};
use tokio_postgres::error::SqlState;
use users_sync::throwaway::Options;

const SEED: u64 = 1;
const ROUNDS: u64 = 120;
/// Transactions between two comparisons.
const PHASE: u64 = 40;
const USERS: usize = 24;
/// Fewer addresses than users, so that they are taken again soon.
const ADDRESSES: u32 = 18;
/// Attempts after writes begin within seconds; later ones follow with pauses of up to a minute.
const SETTLED_WITHIN: Duration = Duration::from_secs(150);

struct Shape {
    tenant: &'static str,
    table: &'static str,
    constraint: &'static str,
    /// The unique value, in SQL of the source. `None` if an interim value can be refused.
    key: Option<&'static str>,
    since: u32,
}

const SHAPES: [Shape; 7] = [
    Shape {
        tenant: "plain",
        table: PLAIN,
        constraint: "CREATE UNIQUE INDEX one ON neon_auth.users_sync (email)",
        key: Some("email"),
        since: 0,
    },
    Shape {
        tenant: "folded",
        table: PLAIN,
        constraint: "CREATE UNIQUE INDEX one ON neon_auth.users_sync (lower(email))",
        key: Some("lower(email)"),
        since: 0,
    },
    Shape {
        tenant: "partial",
        table: PLAIN,
        constraint: "CREATE UNIQUE INDEX one ON neon_auth.users_sync (email) WHERE deleted_at IS NULL",
        key: Some("email"),
        since: 0,
    },
    Shape {
        tenant: "nulls",
        table: PLAIN,
        constraint: "CREATE UNIQUE INDEX one ON neon_auth.users_sync (email) NULLS NOT DISTINCT",
        key: None,
        since: 15,
    },
    Shape {
        tenant: "excluded",
        table: PLAIN,
        constraint: "ALTER TABLE neon_auth.users_sync ADD CONSTRAINT one EXCLUDE USING btree (email WITH =)",
        key: Some("email"),
        since: 0,
    },
    Shape {
        tenant: "neon",
        table: GENERATED,
        constraint: "ALTER TABLE neon_auth.users_sync ADD CONSTRAINT one UNIQUE (email)",
        key: Some("email"),
        since: 0,
    },
    Shape {
        tenant: "neon_partial",
        table: GENERATED,
        constraint: "CREATE UNIQUE INDEX one ON neon_auth.users_sync (lower(email)) WHERE deleted_at IS NULL",
        key: Some("lower(email)"),
        since: 0,
    },
];

#[derive(Clone, Copy, PartialEq)]
enum Presence {
    Absent,
    Live,
    Deleted,
}

/// The source's users, the same in every tenant.
struct Model {
    rng: Rng,
    users: Vec<(Presence, Option<String>)>,
    tenants: String,
}

impl Model {
    fn pick(&mut self, presence: Presence) -> Option<usize> {
        self.several(presence, 1).first().copied()
    }

    fn several(&mut self, presence: Presence, count: usize) -> Vec<usize> {
        let mut found: Vec<usize> = (0..USERS).filter(|at| self.users[*at].0 == presence).collect();
        self.rng.shuffle(&mut found);
        found.truncate(count);
        found
    }

    /// An address that no live user has, which a deleted one may have had; sometimes one that is taken, or none.
    fn address(&mut self) -> Option<String> {
        if self.rng.u8(..30) == 0 {
            return None;
        }
        let may_be_taken = self.rng.u8(..12) == 0;
        let all: Vec<String> = (0..ADDRESSES)
            .map(|n| match self.rng.u8(..12) {
                0 => format!("A{n}@X.org"),
                _ => format!("a{n}@x.org"),
            })
            .collect();
        let is_taken = |address: &String| {
            self.users.iter().any(|user| user.0 == Presence::Live && user.1.as_ref() == Some(address))
        };
        let found: Vec<String> = all.into_iter().filter(|address| may_be_taken || !is_taken(address)).collect();
        let count = found.len();
        found.into_iter().nth(self.rng.usize(..count.max(1))).or_else(|| Some(format!("b{}@x.org", self.rng.u64(..))))
    }

    fn give(&mut self, user: usize, address: Option<String>) -> String {
        let sql =
            format!("UPDATE auth.users SET email = {}, updated_at = now() WHERE id = 'u{user}'", literal(&address));
        self.users[user].1 = address;
        sql
    }

    fn delete(&mut self, user: usize) -> String {
        if self.rng.bool() {
            self.users[user] = (Presence::Absent, None);
            return format!("DELETE FROM auth.users WHERE id = 'u{user}'");
        }
        self.users[user].0 = Presence::Deleted;
        format!("UPDATE auth.users SET deleted_at = now(), updated_at = now() WHERE id = 'u{user}'")
    }

    /// An absent user is inserted, a deleted one comes back, a live one changes the address.
    fn take(&mut self, user: usize, address: Option<String>) -> String {
        let before = std::mem::replace(&mut self.users[user].0, Presence::Live);
        let value = literal(&address);
        match before {
            Presence::Absent => {
                self.users[user].1 = address;
                format!(
                    "INSERT INTO auth.users (id, org, first_name, email, created_at, updated_at)
                     SELECT 'u{user}', unnest('{{{}}}'::text[]), 'Ann', {value}, date_trunc('second', now()), now()",
                    self.tenants
                )
            }
            Presence::Deleted => {
                self.users[user].1 = address;
                format!(
                    "UPDATE auth.users SET deleted_at = NULL, email = {value}, updated_at = now() WHERE id = 'u{user}'"
                )
            }
            Presence::Live => self.give(user, address),
        }
    }

    fn rotate(&mut self, count: usize) -> Vec<String> {
        let users = self.several(Presence::Live, count);
        let addresses: Vec<_> = users.iter().map(|at| self.users[*at].1.clone()).collect();
        // Stores with a constraint of their own go through an interim value.
        let via_null = self.rng.bool();
        let mut all = Vec::new();
        if via_null {
            all.extend(users.iter().map(|at| format!("UPDATE auth.users SET email = NULL WHERE id = 'u{at}'")));
        }
        let count = users.len();
        all.extend(users.iter().enumerate().map(|(n, at)| self.give(*at, addresses[(n + 1) % count].clone())));
        all
    }

    /// Live users pass their addresses on: the first one leaves or gets another one, each next one takes what the one before had.
    fn hand_over(&mut self) -> Vec<String> {
        let count = self.rng.usize(1..4);
        let mut all = Vec::new();
        let users = self.several(Presence::Live, count);
        let mut given = None;
        for (n, user) in users.into_iter().enumerate() {
            let had = self.users[user].1.clone();
            all.push(match n {
                0 if self.rng.bool() => self.delete(user),
                0 => {
                    let address = self.address();
                    self.give(user, address)
                }
                _ => self.give(user, given),
            });
            given = had;
        }
        let taker = [Presence::Absent, Presence::Deleted, Presence::Live][self.rng.usize(..3)];
        if let (Some(user), Some(address)) = (self.pick(taker), given) {
            // The last one who had it may take it back.
            let holder = (0..USERS).find(|at| self.users[*at] == (Presence::Live, Some(address.clone())));
            if let Some(holder) = holder {
                let other = self.address();
                all.push(self.give(holder, other));
            }
            all.push(self.take(user, Some(address)));
        }
        all
    }

    fn operation(&mut self) -> Vec<String> {
        let is_sparse = self.users.iter().filter(|user| user.0 == Presence::Live).count() < USERS / 2;
        match self.rng.u8(..20) {
            0..4 => self.rotate(2),
            4..6 => {
                let count = self.rng.usize(3..7);
                self.rotate(count)
            }
            6..11 => self.hand_over(),
            11..13 if !is_sparse => {
                let user = self.pick(Presence::Live);
                user.into_iter().map(|user| self.delete(user)).collect()
            }
            13 => {
                let name = format!("n{}", self.rng.u8(..9));
                let user = self.pick(Presence::Live);
                user.into_iter()
                    .map(|at| {
                        format!("UPDATE auth.users SET first_name = '{name}', updated_at = now() WHERE id = 'u{at}'")
                    })
                    .collect()
            }
            14..16 => {
                let (user, address) = (self.pick(Presence::Live), self.address());
                user.into_iter().map(|user| self.give(user, address.clone())).collect()
            }
            kind => {
                let gone = if kind % 2 == 0 { Presence::Absent } else { Presence::Deleted };
                let (user, address) = (self.pick(gone), self.address());
                user.into_iter().map(|user| self.take(user, address.clone())).collect()
            }
        }
    }
}

fn literal(address: &Option<String>) -> String {
    address.as_ref().map_or_else(|| "NULL".to_owned(), |address| format!("'{address}'"))
}

/// Writes the source's row of a user to a target. The parameters are the columns of [`Row`].
fn upsert(shape: &Shape) -> &'static str {
    match shape.table == GENERATED {
        true => {
            "WITH v AS (SELECT $1::text, $2::text::jsonb AS raw_json, $3::text, $4::text, $5::text,
               $6::text::timestamptz AS updated_at, $7::text::timestamptz AS deleted_at)
             INSERT INTO neon_auth.users_sync (raw_json, updated_at, deleted_at) SELECT raw_json, updated_at, deleted_at FROM v
             ON CONFLICT (id) DO UPDATE SET raw_json = excluded.raw_json, updated_at = excluded.updated_at,
               deleted_at = excluded.deleted_at"
        }
        false => {
            "INSERT INTO neon_auth.users_sync (id, raw_json, name, email, created_at, updated_at, deleted_at)
             VALUES ($1::text, $2::text::jsonb, $3::text, $4::text, $5::text::timestamptz, $6::text::timestamptz,
               $7::text::timestamptz)
             ON CONFLICT (id) DO UPDATE SET raw_json = excluded.raw_json, name = excluded.name, email = excluded.email,
               created_at = excluded.created_at, updated_at = excluded.updated_at, deleted_at = excluded.deleted_at"
        }
    }
}

/// What is wrong with a target.
async fn problems(bed: &Bed, shape: &Shape) -> Vec<String> {
    let tenant = shape.tenant;
    let mut wrong = Vec::new();
    let state = format!(
        "SELECT state FROM users_sync.tenant WHERE tenant = '{tenant}'
           AND NOT EXISTS (SELECT FROM users_sync.request WHERE tenant = '{tenant}')"
    );
    let state = bed.query("auth", &state).await;
    if state.first().and_then(|row| row[0].as_deref()) != Some("following") {
        return vec![format!("the state is {state:?}")];
    }
    let mut client = bed.server.connect(tenant).await.unwrap();
    let expected = bed.expected(tenant).await;
    let rejected = client.query("SELECT id, reason FROM users_sync.rejected", &[]).await.unwrap();
    let rejected: HashMap<String, String> = rejected.iter().map(|row| (row.get(0), row.get(1))).collect();
    let held = client
        .query(
            "SELECT id, raw_json::text, name, email, created_at::text, updated_at::text, deleted_at::text
             FROM neon_auth.users_sync",
            &[],
        )
        .await
        .unwrap();
    let held: Vec<Row> = held.iter().map(|row| std::array::from_fn(|column| row.get(column))).collect();
    let held: HashMap<&str, &Row> = held.iter().map(|row| (row[0].as_deref().unwrap(), row)).collect();
    let at_source: HashSet<&str> = expected.iter().map(|row| row[0].as_deref().unwrap()).collect();
    for row in &expected {
        let id = row[0].as_deref().unwrap();
        if !rejected.contains_key(id) && held.get(id) != Some(&row) {
            wrong.push(format!("expected {row:?}, held {:?}", held.get(id)));
        }
    }
    wrong.extend(
        rejected.keys().filter(|id| !at_source.contains(id.as_str())).map(|id| format!("rejected, but gone: {id}")),
    );
    let live = held.iter().filter(|(_, row)| row[6].is_none());
    wrong.extend(live.filter(|(id, _)| !at_source.contains(*id)).map(|(_, row)| format!("extra {row:?}")));
    // A live user only yields to a live user who has the value at the source too.
    if let Some(key) = shape.key {
        let live = format!("SELECT id, {key} FROM auth.users WHERE org = '{tenant}' AND deleted_at IS NULL");
        let live = bed.query("auth", &live).await;
        let is_rejected = |row: &[Option<String>]| rejected.contains_key(row[0].as_deref().unwrap());
        let taken: HashSet<&Option<String>> = live.iter().filter(|row| !is_rejected(row)).map(|row| &row[1]).collect();
        let yields = live.iter().filter(|row| is_rejected(row) && !taken.contains(&row[1]));
        wrong.extend(yields.map(|row| format!("rejected, but no live user has its value: {row:?}")));
    }
    if wrong.is_empty() {
        let refused: Vec<&Row> =
            expected.iter().filter(|row| rejected.contains_key(row[0].as_deref().unwrap())).collect();
        let accepted = accepted(&mut client, shape, &refused).await;
        wrong.extend(
            accepted
                .iter()
                .map(|row| format!("rejected without need: {row:?}, held {:?}", held.get(row[0].as_deref().unwrap()))),
        );
    }
    wrong
}

/// The rows that the table as it is would accept, each on its own.
async fn accepted<'r>(client: &mut tokio_postgres::Client, shape: &Shape, rows: &[&'r Row]) -> Vec<&'r Row> {
    let mut accepted = Vec::new();
    let mut transaction = client.transaction().await.unwrap();
    // Without this lock, an attempt could end in a deadlock with the service.
    transaction.batch_execute("LOCK TABLE neon_auth.users_sync IN EXCLUSIVE MODE").await.unwrap();
    for row in rows {
        let attempt = transaction.transaction().await.unwrap();
        let parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = row.iter().map(|value| value as _).collect();
        match attempt.execute(upsert(shape), &parameters).await {
            Ok(_) => accepted.push(*row),
            Err(error) => {
                let conflicts = [SqlState::UNIQUE_VIOLATION, SqlState::EXCLUSION_VIOLATION];
                assert!(error.code().is_some_and(|code| conflicts.contains(code)), "{error:?}");
            }
        }
        attempt.rollback().await.unwrap();
    }
    transaction.rollback().await.unwrap();
    accepted
}

/// Waits until the targets are right.
async fn settled(bed: &Bed, shapes: &[&Shape], round: u64) -> usize {
    // A user who always fits shows how far the stream is.
    bed.auth("UPDATE auth.users SET updated_at = clock_timestamp() WHERE id = 'fence'").await;
    let deadline = Instant::now() + SETTLED_WITHIN;
    let mut rejected = 0;
    for shape in shapes {
        loop {
            let wrong = problems(bed, shape).await;
            if wrong.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                let held = "SELECT id, email, deleted_at IS NULL AS live FROM neon_auth.users_sync ORDER BY email";
                let held = bed.query(shape.tenant, held).await;
                let set_aside = bed.query(shape.tenant, "SELECT id, reason FROM users_sync.rejected").await;
                panic!(
                    "{} after {round} rounds:\n{}\nrejected {set_aside:?}\nheld {held:?}",
                    shape.tenant,
                    wrong.join("\n")
                );
            }
            pause().await;
        }
        let count = bed.query(shape.tenant, "SELECT count(*) FROM users_sync.rejected").await;
        rejected += count[0][0].as_deref().unwrap().parse::<usize>().unwrap();
    }
    rejected
}

#[tokio::test(flavor = "multi_thread")]
async fn every_user_arrives_whom_the_constraints_allow() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("USERS_SYNC_SEED").unwrap_or(SEED);
    let rounds = number("USERS_SYNC_ROUNDS").unwrap_or(ROUNDS);
    println!("USERS_SYNC_SEED={seed}");
    let all: Vec<&str> = SHAPES.iter().map(|shape| shape.tenant).collect();
    let mut bed = Bed::start_with(&all, Options::new()).await;
    let major = bed.query("auth", "SELECT current_setting('server_version_num')::int / 10000").await;
    let major: u32 = major[0][0].as_deref().unwrap().parse().unwrap();
    let shapes: Vec<&Shape> = SHAPES.iter().filter(|shape| shape.since <= major).collect();
    bed.tenants = shapes.iter().map(|shape| shape.tenant.to_owned()).collect();
    for shape in &shapes {
        bed.server.sql(shape.tenant, &format!("{}; {}", shape.table, shape.constraint)).await.unwrap();
    }
    let mut model = Model {
        rng: Rng::with_seed(seed),
        users: vec![(Presence::Absent, None); USERS],
        tenants: bed.tenants.join(","),
    };
    let first: Vec<String> = (0..USERS / 2).map(|user| model.take(user, Some(format!("a{user}@x.org")))).collect();
    bed.auth(&first.join(";\n")).await;
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, email, created_at, updated_at)
         SELECT 'fence', unnest('{{{}}}'::text[]), 'fence@x.org', date_trunc('second', now()), now()",
        model.tenants
    ))
    .await;
    let mut service = Service::start(bed.config());
    bed.equal().await;
    let mut rejected = 0;
    for round in 1..=rounds {
        let operations = model.rng.usize(1..4);
        let statements: Vec<String> = (0..operations).flat_map(|_| model.operation()).collect();
        println!("{round}: {}", statements.join("; "));
        bed.auth(&format!("BEGIN; {}; COMMIT", statements.join(";\n"))).await;
        match model.rng.u8(..40) {
            0 => {
                println!("{round}: the service is killed");
                service.kill().await;
                service = Service::start(bed.config());
            }
            1 => {
                println!("{round}: the service stops");
                service.stop().await;
                service = Service::start(bed.config());
            }
            2..4 => {
                let tenant = shapes[model.rng.usize(..shapes.len())].tenant;
                println!("{round}: resync of {tenant}");
                bed.auth(&format!(
                    "INSERT INTO users_sync.request (slot, tenant, allow_deletes)
                     SELECT slot, '{tenant}', true FROM users_sync.source ON CONFLICT DO NOTHING"
                ))
                .await;
            }
            // Transactions share a batch, or not.
            4..15 => let_pass(Duration::from_millis(model.rng.u64(..60))).await,
            _ => {}
        }
        if round % PHASE == 0 || round == rounds {
            let begun = Instant::now();
            let count = settled(&bed, &shapes, round).await;
            println!("{round}: {count} users are rejected; settled within {:?}", begun.elapsed());
            rejected += count;
        }
    }
    service.stop().await;
    println!("USERS_SYNC_SEED={seed}: {rejected} users were rejected with reason");
    assert!(rejected > 0, "no user was refused: the constraints were not tested");
}
