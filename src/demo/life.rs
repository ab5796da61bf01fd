//! Users sign up, rename themselves and leave. Each change is measured until a query of its target sees it.

use super::error::DemoError;
use super::stage::{Stage, TENANTS};
use std::fmt;
use std::io::Write;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_postgres::Client;

/// Interval between changes, slow enough to read the output.
const CHANGE_INTERVAL: Duration = Duration::from_millis(200);
/// Short compared with the latencies that are measured.
const POLL_INTERVAL: Duration = Duration::from_micros(200);
/// Time limit for one change.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(10);

const FIRST_NAMES: [&str; 10] =
    ["Ada", "Grace", "Edsger", "Barbara", "Donald", "Frances", "Alan", "Radia", "Niklaus", "Hedy"];
const LAST_NAMES: [&str; 7] = ["Lovelace", "Hopper", "Dijkstra", "Liskov", "Knuth", "Allen", "Turing"];

/// Times from a commit at the source until a query of the target returns the change.
#[derive(Default)]
pub(super) struct Latencies(Vec<Duration>);

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort();
        let at = |share: f64| sorted.get(((sorted.len().max(1) - 1) as f64 * share) as usize).copied();
        match (at(0.5), at(0.99)) {
            (Some(p50), Some(p99)) => write!(
                f,
                "{} changes, commit to visible: p50 {}, p99 {} (source synchronous_commit = on)",
                sorted.len(),
                Millis(p50),
                Millis(p99)
            ),
            _ => f.write_str("no changes were made"),
        }
    }
}

struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.1} ms", self.0.as_secs_f64() * 1000.0))
    }
}

/// A user that the demo has created.
struct Person {
    id: String,
    name: String,
}

/// Makes one change after the other until `until`.
pub(super) async fn live(
    stage: &Stage,
    until: Instant,
    latencies: &mut Latencies,
    out: &mut impl Write,
) -> Result<(), DemoError> {
    let auth = stage.auth().await?;
    let targets = [stage.tenant(TENANTS[0]).await?, stage.tenant(TENANTS[1]).await?];
    let mut people: [Vec<Person>; 2] = Default::default();
    let mut turn = 0;
    while Instant::now() < until {
        let next = Instant::now() + CHANGE_INTERVAL;
        let index = turn % 2;
        let (tenant, target, people) = (TENANTS[index], &targets[index], &mut people[index]);
        // Two of five sign up, two rename themselves, one leaves.
        let (change, user, latency) = match turn % 5 {
            1 | 3 if !people.is_empty() => {
                let chosen = turn % people.len();
                let Person { id, name } = &mut people[chosen];
                *name = format!("{} {}", FIRST_NAMES[turn % 10], LAST_NAMES[(turn / 2) % 7]);
                let sql = "UPDATE auth.users SET first_name = $2, last_name = NULL, updated_at = clock_timestamp() \
                           WHERE id::text = $1";
                auth.execute(sql, &[&id.as_str(), &name.as_str()]).await?;
                let seen = "SELECT FROM neon_auth.users_sync WHERE id = $1 AND name = $2";
                ("renamed", name.clone(), visible(target, seen, &[id, name]).await?)
            }
            4 if !people.is_empty() => {
                let Person { id, name } = people.remove(0);
                auth.execute("DELETE FROM auth.users WHERE id::text = $1", &[&id]).await?;
                let seen = "SELECT FROM neon_auth.users_sync WHERE id = $1 AND deleted_at IS NOT NULL";
                ("left", name, visible(target, seen, &[&id]).await?)
            }
            _ => {
                let (first, last) = (FIRST_NAMES[(turn * 7) % 10], LAST_NAMES[(turn * 3) % 7]);
                let sql = "INSERT INTO auth.users (organization, username, first_name, last_name, email) \
                           VALUES ($1, $2, $3, $4, $2 || '@example.com') RETURNING id::text";
                let username = format!("{}{turn}", first.to_lowercase());
                let id: String = auth.query_one(sql, &[&tenant, &username, &first, &last]).await?.try_get(0)?;
                let latency = visible(target, "SELECT FROM neon_auth.users_sync WHERE id = $1", &[&id]).await?;
                // A row of the application's own table references the new user.
                target.execute("INSERT INTO todos (task, user_id) VALUES ('say hello', $1)", &[&id]).await?;
                people.push(Person { id, name: format!("{first} {last}") });
                ("signed up", format!("{first} {last} (and has a todo)"), latency)
            }
        };
        writeln!(out, "{:>9}  {tenant:<8} {change:<9} {user}", Millis(latency))?;
        latencies.0.push(latency);
        turn += 1;
        sleep_until(next).await;
    }
    Ok(())
}

/// The time from now, right after the commit, until the query returns a row.
async fn visible(target: &Client, sql: &str, parameters: &[&String]) -> Result<Duration, DemoError> {
    let committed = Instant::now();
    let parameters: Vec<_> =
        parameters.iter().map(|value| *value as &(dyn tokio_postgres::types::ToSql + Sync)).collect();
    while target.query_opt(sql, &parameters).await?.is_none() {
        if committed.elapsed() > VISIBLE_TIMEOUT {
            return Err(DemoError::Stalled("a change did not reach its target within 10 s"));
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(committed.elapsed())
}
