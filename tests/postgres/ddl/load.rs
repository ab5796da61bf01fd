//! The application's writes during a round, and the harm meter: how long logins and DDL statements wait.

use super::steps::Scene;
use super::{HANGING, TENANTS};
use crate::support::{Bed, let_pass};
use fastrand::Rng;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// 50 logins a second.
const LOGIN_INTERVAL: Duration = Duration::from_millis(20);
const WRITERS: usize = 2;
/// Users of each region that writers insert, change and delete.
const USERS: usize = 40;

/// The longest waits of all rounds.
#[derive(Default)]
pub(super) struct Harm {
    pub(super) login: Longest,
    pub(super) ddl: Longest,
}

/// The longest wait, and what waited.
#[derive(Default)]
pub(super) struct Longest(Mutex<(Duration, String)>);

impl Longest {
    pub(super) fn note(&self, waited: Duration, what: &str) {
        let mut longest = self.0.lock().unwrap();
        if waited > longest.0 {
            *longest = (waited, what.to_owned());
        }
    }
}

impl Harm {
    /// Prints the waits. A limit is checked only where the machine does nothing else.
    pub(super) fn report(&self, limit: Option<Duration>) {
        for (who, longest) in [("login", &self.login), ("DDL", &self.ddl)] {
            let (waited, what) = &*longest.0.lock().unwrap();
            println!("longest wait of a {who}: {waited:?} ({what})");
            if let Some(limit) = limit {
                assert!(*waited < limit, "a {who} waited {waited:?}: {what}");
            }
        }
    }
}

/// Writers and logins that run until they are stopped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<u32>>,
}

impl Load {
    pub(super) fn start(bed: &Arc<Bed>, rng: &mut Rng, scene: &Scene, harm: &Arc<Harm>) -> Load {
        let (regions, has_query) = (scene.regions(), scene.has_query());
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks =
            vec![tokio::spawn(log_in(bed.clone(), rng.fork(), regions.clone(), harm.clone(), stop.clone()))];
        for _ in 0..WRITERS {
            tasks.push(tokio::spawn(write(bed.clone(), rng.fork(), regions.clone(), has_query, stop.clone())));
        }
        Load { stop, tasks }
    }

    /// Returns the number of transactions that succeeded.
    pub(super) async fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let mut done = 0;
        for task in self.tasks {
            done += task.await.unwrap();
        }
        done
    }
}

/// An id names its region, so that it is unique although the key of a partitioned table includes the region.
fn some_id(rng: &mut Rng, region: &str) -> String {
    format!("{region}{}", rng.usize(..USERS))
}

async fn log_in(bed: Arc<Bed>, mut rng: Rng, regions: Vec<&str>, harm: Arc<Harm>, stop: Arc<AtomicBool>) -> u32 {
    let client = bed.server.connect("auth").await.unwrap();
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let region = regions[rng.usize(..regions.len())];
        let id = some_id(&mut rng, region);
        let login = format!(
            "UPDATE auth.users SET updated_at = now() WHERE id = '{id}'; SELECT * FROM auth.users WHERE id = '{id}'"
        );
        let begun = Instant::now();
        // It fails while the table has another name, for example.
        done += u32::from(client.batch_execute(&login).await.is_ok());
        harm.login.note(begun.elapsed(), "UPDATE and SELECT by id");
        let_pass(LOGIN_INTERVAL.saturating_sub(begun.elapsed())).await;
    }
    done
}

async fn write(bed: Arc<Bed>, mut rng: Rng, regions: Vec<&str>, has_query: bool, stop: Arc<AtomicBool>) -> u32 {
    let client = bed.server.connect("auth").await.unwrap();
    let is_partitioned = regions.len() > 1;
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let region = regions[rng.usize(..regions.len())];
        let other = regions[rng.usize(..regions.len())];
        let org = [&TENANTS[..], &[HANGING]].concat()[rng.usize(..TENANTS.len() + 1)];
        let mut sql = String::from("BEGIN;");
        for _ in 0..[1, 1, 1, 4][rng.usize(..4)] {
            let (id, next) = (some_id(&mut rng, region), some_id(&mut rng, other));
            // One id belongs to one tenant at a time.
            let free = format!("NOT EXISTS (SELECT FROM auth.users WHERE id = '{next}')");
            sql.push_str(&match rng.u8(..12) {
                0..2 => format!("DELETE FROM auth.users WHERE id = '{id}';"),
                2 => format!("UPDATE auth.users SET org = '{org}', updated_at = now() WHERE id = '{id}';"),
                3 if is_partitioned => format!(
                    "UPDATE auth.users SET id = '{next}', region = '{other}' WHERE id = '{id}' AND {free};"
                ),
                3 => format!("UPDATE auth.users SET id = '{next}' WHERE id = '{id}' AND {free};"),
                4 => format!(
                    "UPDATE auth.users SET profile = jsonb_build_object('big', (SELECT string_agg(md5(n::text || '{}'), '')
                     FROM generate_series(1, 200) n)) WHERE id = '{id}';",
                    rng.u16(..)
                ),
                5 if has_query => format!(
                    "INSERT INTO auth.emails VALUES ('{id}', '{next}-{}@x.org')
                     ON CONFLICT (user_id) DO UPDATE SET address = excluded.address;",
                    rng.u8(..)
                ),
                6 if has_query => format!("DELETE FROM auth.emails WHERE user_id = '{id}';"),
                5..9 => {
                    let (more, value) = if is_partitioned { (", region", format!(", '{other}'")) } else { ("", String::new()) };
                    format!(
                        "INSERT INTO auth.users (id, org, email, updated_at{more})
                         SELECT '{next}', '{org}', '{next}@Example.org', now(){value} WHERE {free};"
                    )
                }
                _ => format!("UPDATE auth.users SET first_name = 'n{}' WHERE id = '{id}';", rng.u8(..)),
            });
        }
        sql.push_str("COMMIT");
        match client.batch_execute(&sql).await {
            Ok(()) => done += 1,
            // DDL makes some of them fail.
            Err(_) => drop(client.batch_execute("ROLLBACK").await),
        }
        let_pass(Duration::from_millis(rng.u64(..20))).await;
    }
    done
}
