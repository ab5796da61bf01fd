//! Connections to targets, for whoever looks at a tenant's users: one for each tenant however many look, given up when
//! nobody has looked for a while. Statements share it, each in a transaction of its own, so that any pooler will do.

use super::answer::Problem;
use crate::config::Tenant;
use crate::model::TenantId;
use crate::pg::{PgClient, PgUrl, SqlStateClass, connect, describe};
use std::collections::HashMap;
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// A connection that nobody has used for so long is given up: its target may fall asleep.
const IDLE: Duration = Duration::from_secs(30);
/// A target that takes longer is not waited for: it sleeps, or somebody locks its tables.
const PATIENCE: Duration = Duration::from_secs(10);

/// A target that could not be reached is not tried again before.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Targets(Lock<HashMap<TenantId, Arc<Registration>>>);

struct Registration {
    target: PgUrl,
    client: tokio::sync::Mutex<Kept>,
    used: Lock<Instant>,
}

/// What is known of the connection.
enum Kept {
    None,
    Open(Arc<PgClient>),
    /// It could not be made: whoever comes just now is told the same.
    Failed(Instant, String),
}

impl Targets {
    /// Asks the tenant's target. A connection that fails is not used again.
    pub(super) async fn ask<T>(
        &self,
        tenant: &Tenant,
        question: impl AsyncFnOnce(&PgClient) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Problem> {
        let place = self.place(tenant);
        let asked = async {
            let client = place.client().await?;
            let answer = question(&client).await;
            *lock(&place.used) = Instant::now();
            answer.map_err(|error| {
                use SqlStateClass::{MissingSchema, MissingTable};
                let missing = matches!(SqlStateClass::of_error(&error), Some(MissingSchema | MissingTable));
                match missing {
                    true => {
                        Problem::unavailable("the target has no users yet").remedy("wait until the tenant is following")
                    }
                    false => Problem::unavailable(format!("the target returned an error: {}", describe(&error))),
                }
            })
        };
        match timeout(PATIENCE, asked).await {
            Ok(answer) => answer,
            // The connection stays: where the statement waits for a lock, one given up would leave a backend waiting there,
            // and whoever comes next one more. One that nobody answers on any more is closed by its keepalive.
            Err(_) => Err(Problem::unavailable("the target does not answer").remedy(
                "try again; a suspended target takes a while to start, and a lock on neon_auth.users_sync blocks reads",
            )),
        }
    }

    fn place(&self, tenant: &Tenant) -> Arc<Registration> {
        let mut places = lock(&self.0);
        let place = places.get(&tenant.id).filter(|place| place.target == tenant.target).cloned();
        place.unwrap_or_else(|| {
            let target = tenant.target.clone();
            let place = Arc::new(Registration {
                target,
                client: tokio::sync::Mutex::new(Kept::None),
                used: Lock::new(Instant::now()),
            });
            places.insert(tenant.id.clone(), place.clone());
            place
        })
    }

    /// Gives up what nobody uses.
    pub(super) fn tidy_up(&self) {
        lock(&self.0).retain(|_, place| Arc::strong_count(place) > 1 || lock(&place.used).elapsed() < IDLE);
    }
}

impl Registration {
    async fn client(&self) -> Result<Arc<PgClient>, Problem> {
        let mut kept = self.client.lock().await;
        match &*kept {
            Kept::Open(client) if !client.is_closed() => return Ok(client.clone()),
            Kept::Failed(at, why) if at.elapsed() < AGAIN => return Err(Problem::unavailable(why.clone())),
            Kept::Open(_) | Kept::Failed(..) | Kept::None => {}
        }
        match connect(&self.target).await.map(Arc::new) {
            Ok(client) => {
                *kept = Kept::Open(client.clone());
                Ok(client)
            }
            Err(error) => {
                *kept = Kept::Failed(Instant::now(), error.to_string());
                Err(Problem::unavailable(error.to_string()))
            }
        }
    }
}

fn lock<T>(mutex: &Lock<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these locks is held that could leave its value half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
