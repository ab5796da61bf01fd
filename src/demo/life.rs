//! Users sign up, rename themselves and leave. Each change is measured until a query of its target sees it.

use super::error::DemoError;
use super::stage::{Stage, TENANTS};
use super::visible::{Change, visible};
use std::fmt;
use std::io::Write;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Interval between changes, slow enough to read the output.
const CHANGE_INTERVAL: Duration = Duration::from_millis(200);

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

/// Makes one change after the other until `until`. With `is_shared` a visitor of the page changes the same people, and may
/// pause a tenant: a change that does not arrive in time is then shown and left out of the latencies.
pub(super) async fn live(
    stage: &Stage,
    until: Instant,
    is_shared: bool,
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
                           WHERE id::text = $1 RETURNING updated_at::text";
                let Some(updated) = auth.query_opt(sql, &[&id.as_str(), &name.as_str()]).await? else {
                    // A visitor has deleted this person.
                    people.remove(chosen);
                    continue;
                };
                let updated_at: String = updated.try_get(0)?;
                ("renamed", name.clone(), visible(target, id, Change::Rename(&updated_at)).await?)
            }
            4 if !people.is_empty() => {
                let Person { id, name } = people.remove(0);
                if auth.execute("DELETE FROM auth.users WHERE id::text = $1", &[&id]).await? == 0 {
                    continue;
                }
                ("left", name, visible(target, &id, Change::Delete).await?)
            }
            _ => {
                let (first, last) = (FIRST_NAMES[(turn * 7) % 10], LAST_NAMES[(turn * 3) % 7]);
                let sql = "INSERT INTO auth.users (organization, username, first_name, last_name, email) \
                           VALUES ($1, $2, $3, $4, $2 || '@example.com') RETURNING id::text";
                let username = format!("{}{turn}", first.to_lowercase());
                let id: String = auth.query_one(sql, &[&tenant, &username, &first, &last]).await?.try_get(0)?;
                let latency = visible(target, &id, Change::SignUp).await?;
                let mut user = format!("{first} {last}");
                people.push(Person { id: id.clone(), name: user.clone() });
                if latency.is_some() {
                    // A row of the application's own table references the new user.
                    target.execute("INSERT INTO todos (task, user_id) VALUES ('say hello', $1)", &[&id]).await?;
                    user.push_str(" (and has a todo)");
                }
                ("signed up", user, latency)
            }
        };
        match latency {
            Some(latency) => {
                writeln!(out, "{:>9}  {tenant:<8} {change:<9} {user}", Millis(latency))?;
                latencies.0.push(latency);
            }
            None if is_shared => writeln!(out, "{:>9}  {tenant:<8} {change:<9} {user}", "not yet")?,
            None => return Err(DemoError::Stalled("a change did not reach its target within 10 s")),
        }
        turn += 1;
        sleep_until(next).await;
    }
    Ok(())
}
