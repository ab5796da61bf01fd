//! kill -9 under load, fifty times: nothing is lost, nothing is applied twice, and no user goes back in time.
//! Prints its seed; `USERS_SYNC_SEED=<number>` repeats the same choices.

use crate::support::process::Process;
use crate::support::{Bed, DEADLINE};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const KILLS: usize = 50;
const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
const USERS: usize = 6_000;
const WRITERS: usize = 3;

/// The moments at which a kill can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    StartUp,
    Snapshot,
    Merge,
    Streaming,
    CommitInFlight,
}

const MOMENTS: [Moment; 5] =
    [Moment::StartUp, Moment::Snapshot, Moment::Merge, Moment::Streaming, Moment::CommitInFlight];

/// The tables as users-sync creates them, with a history of everything that was visible in them.
const HISTORY: &str = "
    CREATE SCHEMA neon_auth; CREATE SCHEMA users_sync; CREATE SCHEMA history;
    CREATE TABLE neon_auth.users_sync (id text PRIMARY KEY, raw_json jsonb NOT NULL, name text, email text,
      created_at timestamptz, deleted_at timestamptz, updated_at timestamptz);
    CREATE TABLE users_sync.checkpoint (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), tenant text NOT NULL,
      target_id uuid NOT NULL, generation bigint NOT NULL, position pg_lsn NOT NULL, epoch bigint NOT NULL,
      mapping text NOT NULL);
    CREATE TABLE history.users (n bigserial, id text, version bigint, xid xid8 DEFAULT pg_current_xact_id());
    CREATE TABLE history.checkpoints (n bigserial, position pg_lsn, epoch bigint, xid xid8 DEFAULT pg_current_xact_id());
    CREATE FUNCTION history.user_seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO history.users (id, version) VALUES (NEW.id, (NEW.raw_json ->> 'version')::bigint); RETURN NULL; END $$;
    CREATE FUNCTION history.checkpoint_seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO history.checkpoints (position, epoch) VALUES (NEW.position, NEW.epoch); RETURN NULL; END $$;
    CREATE TRIGGER seen AFTER INSERT OR UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION history.user_seen();
    CREATE TRIGGER seen AFTER INSERT OR UPDATE OF position ON users_sync.checkpoint FOR EACH ROW
      EXECUTE FUNCTION history.checkpoint_seen()";

/// What the database shows at this moment.
struct Observer {
    auth: Client,
}

impl Observer {
    async fn sees(&self, moment: Moment) -> bool {
        let sql = match moment {
            Moment::StartUp => {
                "SELECT NOT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = 'users_sync'"
            }
            Moment::Snapshot => {
                "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'users-sync%' AND state = 'active'
                 AND query LIKE 'COPY (SELECT%'"
            }
            Moment::Merge => {
                "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'users-sync%' AND state = 'active'
                 AND query LIKE '%users_sync_stage%'"
            }
            Moment::Streaming => {
                "SELECT (SELECT bool_and(state = 'following') FROM users_sync.tenant)
                 AND (SELECT bool_or(active) FROM pg_replication_slots WHERE slot_name = 'users_sync')"
            }
            Moment::CommitInFlight => {
                "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'users-sync%' AND state = 'active'
                 AND (query LIKE 'WITH%guard%' OR query = 'COMMIT') AND pid <> pg_backend_pid()"
            }
        };
        // Before the first run there is no state to query.
        self.auth.query_one(sql, &[]).await.is_ok_and(|row| row.get::<_, Option<bool>>(0) == Some(true))
    }

    async fn wait_for(&self, moment: Moment) {
        let deadline = Instant::now() + DEADLINE;
        while !self.sees(moment).await {
            assert!(Instant::now() < deadline, "{moment:?} never came");
            tokio::task::yield_now().await;
        }
    }
}

/// Changes the writer's own users, transaction by transaction, with a version that only grows.
async fn write(client: Client, writer: usize, seed: u64, stop: Arc<AtomicBool>) {
    let mut random = fastrand::Rng::with_seed(seed + writer as u64);
    let mine = |random: &mut fastrand::Rng| format!("u{}", random.usize(0..USERS / WRITERS) * WRITERS + writer);
    while !stop.load(Ordering::Relaxed) {
        let org = TENANTS[random.usize(0..TENANTS.len())];
        let mut sql = String::from("BEGIN;");
        for _ in 0..[1, 1, 1, 3, 40][random.usize(0..5)] {
            let id = mine(&mut random);
            sql.push_str(&match random.usize(0..20) {
                0..8 => format!(
                    "UPDATE auth.users SET first_name = 'n{0}', version = nextval('auth.version'), updated_at = clock_timestamp() \
                     WHERE id = '{id}';",
                    random.u16(..)
                ),
                8..11 => format!(
                    "UPDATE auth.users SET org = '{org}', version = nextval('auth.version'), updated_at = clock_timestamp() \
                     WHERE id = '{id}';"
                ),
                11..13 => format!("DELETE FROM auth.users WHERE id = '{id}';"),
                13..14 => format!(
                    "UPDATE auth.users SET profile = jsonb_build_object('big', repeat(md5('{id}'), 90)), \
                     version = nextval('auth.version'), updated_at = clock_timestamp() WHERE id = '{id}';"
                ),
                _ => format!(
                    "INSERT INTO auth.users (id, org, email, version, updated_at) \
                     SELECT '{id}', '{org}', '{id}@x.org', nextval('auth.version'), clock_timestamp() \
                     WHERE NOT EXISTS (SELECT FROM auth.users WHERE id = '{id}');"
                ),
            });
        }
        sql.push_str(if random.usize(0..10) == 0 { "ROLLBACK" } else { "COMMIT" });
        client.batch_execute(&sql).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_lose_nothing_and_turn_nothing_back() {
    let seed = std::env::var("USERS_SYNC_SEED").map_or_else(|_| fastrand::u64(..1 << 32), |seed| seed.parse().unwrap());
    println!("USERS_SYNC_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let bed = Bed::start(&TENANTS).await;
    for tenant in TENANTS {
        bed.server.sql(tenant, HISTORY).await.unwrap();
    }
    bed.auth(
        "ALTER TABLE auth.users ADD COLUMN version bigint; CREATE SEQUENCE auth.version;
         ALTER TABLE auth.users ALTER profile SET STORAGE EXTERNAL",
    )
    .await;
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, version, updated_at, profile)
         SELECT 'u' || n, (ARRAY['acme', 'globex', 'initech'])[1 + n % 3], nextval('auth.version'), now(),
           jsonb_build_object('big', repeat(md5(n::text), 100)) FROM generate_series(0, {USERS} - 1) n"
    ))
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let client = bed.server.connect("auth").await.unwrap();
        writers.push(tokio::spawn(write(client, writer, seed, stop.clone())));
    }

    let observer = Observer { auth: bed.server.connect("auth").await.unwrap() };
    let config = bed.config_file("limits: {max_deletes: 100%}");
    let mut fell: [usize; MOMENTS.len()] = [0; MOMENTS.len()];
    for kill in 0..KILLS {
        // Before its first snapshot the first run has no state to query.
        let wanted = if kill == 0 { Moment::Snapshot } else { MOMENTS[random.usize(0..MOMENTS.len())] };
        if kill > 0 && matches!(wanted, Moment::Snapshot | Moment::Merge) {
            // A join is needed to be killed during one.
            let whose = TENANTS[random.usize(0..TENANTS.len())];
            bed.auth(&format!("UPDATE users_sync.tenant SET state = 'parked' WHERE tenant = '{whose}'")).await;
        }
        let process = Process::start(&config);
        let moment = match wanted {
            Moment::StartUp => {
                crate::support::let_pass(Duration::from_micros(random.u64(0..40_000))).await;
                if observer.sees(Moment::StartUp).await { Moment::StartUp } else { Moment::Streaming }
            }
            Moment::Streaming => {
                observer.wait_for(Moment::Streaming).await;
                crate::support::let_pass(Duration::from_millis(random.u64(0..300))).await;
                if observer.sees(Moment::CommitInFlight).await { Moment::CommitInFlight } else { Moment::Streaming }
            }
            Moment::CommitInFlight => {
                observer.wait_for(Moment::Streaming).await;
                observer.wait_for(Moment::CommitInFlight).await;
                Moment::CommitInFlight
            }
            // A snapshot may end before it is observed.
            other => loop {
                if observer.sees(other).await {
                    break other;
                }
                if observer.sees(Moment::Streaming).await {
                    break Moment::Streaming;
                }
            },
        };
        process.kill();
        fell[MOMENTS.iter().position(|known| *known == moment).unwrap()] += 1;
    }
    println!("kills: {:?}", MOMENTS.iter().zip(fell).collect::<Vec<_>>());
    assert!(fell.iter().all(|count| *count > 0), "a moment was never hit: {fell:?}");

    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let process = Process::start(&config);
    bed.equal().await;
    assert!(process.stop().await.success());
    for tenant in TENANTS {
        let back = "SELECT count(*)::text FROM (SELECT version < lag(version) OVER (PARTITION BY id ORDER BY n) AS back
                    FROM history.users) h WHERE back";
        assert_eq!(bed.query(tenant, back).await[0][0].as_deref(), Some("0"), "{tenant}: users went back in time");
        let not_risen = "SELECT count(*)::text FROM (SELECT position <= lag(position) OVER (ORDER BY n) AS stuck
                         FROM history.checkpoints) h WHERE stuck";
        assert_eq!(
            bed.query(tenant, not_risen).await[0][0].as_deref(),
            Some("0"),
            "{tenant}: a checkpoint did not rise"
        );
        let alone = "SELECT count(*)::text FROM history.users WHERE xid NOT IN (SELECT xid FROM history.checkpoints)";
        assert_eq!(
            bed.query(tenant, alone).await[0][0].as_deref(),
            Some("0"),
            "{tenant}: rows without their checkpoint"
        );
        let seen = bed.query(tenant, "SELECT count(*)::text FROM history.checkpoints").await;
        println!("{tenant}: {} checkpoints", seen[0][0].as_deref().unwrap());
    }
}
