//! Connections to targets for requests about users: one per tenant, shared by all requests and closed when idle. Each
//! statement is a transaction of its own, so that any pooler works.

use super::problem::{Problem, ProblemCode};
use crate::config::Tenant;
use crate::model::TenantId;
use crate::pg::{PgUrl, SqlStateClass, TargetClient, connect_target};
use crate::sync::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex as Lock};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// An idle connection is closed after this time, so that a serverless target can suspend.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit of a request: a slower target is suspended, or its tables are locked.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Minimum time between two connection attempts to an unreachable target.
const RETRY_DELAY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Targets(Lock<HashMap<TenantId, Arc<TargetConnection>>>);

struct TargetConnection {
    target: PgUrl,
    client: tokio::sync::Mutex<CachedClient>,
    used: Lock<Instant>,
}

enum CachedClient {
    None,
    Open(Arc<TargetClient>),
    /// The last attempt failed. Requests within [`RETRY_DELAY`] get the same error.
    Failed(Instant, String),
}

impl Targets {
    /// Runs a query on the tenant's target. Replaces a closed connection.
    ///
    /// # Errors
    /// The target is unreachable, does not respond in time, or returns an error.
    pub(super) async fn query<T>(
        &self,
        tenant: &Tenant,
        query: impl AsyncFnOnce(&TargetClient) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Problem> {
        let connection = self.connection(tenant);
        let request = async {
            let client = connection.client().await?;
            let answer = query(&client).await;
            *lock(&connection.used) = Instant::now();
            answer.map_err(|error| {
                use SqlStateClass::{MissingSchema, MissingTable};
                let missing = matches!(SqlStateClass::of_error(&error), Some(MissingSchema | MissingTable));
                if missing {
                    return Problem::new(ProblemCode::NoUsersYet, "the target has no users yet")
                        .remedy("wait until the tenant is following");
                }
                {
                    let detail = format!("the target returned an error: {}", client.describe(&error));
                    Problem::new(ProblemCode::TargetError, detail)
                }
            })
        };
        match timeout(REQUEST_TIMEOUT, request).await {
            Ok(answer) => answer,
            // Keep the connection: if the statement waits for a lock, every reconnection would leave another waiting backend.
            // TCP keepalives close a dead connection.
            Err(_) => Err(Problem::new(ProblemCode::TargetNoAnswer, "the target does not answer").remedy(
                "try again; a suspended target takes a while to start, and a lock on neon_auth.users_sync blocks reads",
            )),
        }
    }

    fn connection(&self, tenant: &Tenant) -> Arc<TargetConnection> {
        let mut connections = lock(&self.0);
        let connection = connections.get(&tenant.id).filter(|connection| connection.target == tenant.target).cloned();
        connection.unwrap_or_else(|| {
            let target = tenant.target.clone();
            let connection = Arc::new(TargetConnection {
                target,
                client: tokio::sync::Mutex::new(CachedClient::None),
                used: Lock::new(Instant::now()),
            });
            connections.insert(tenant.id.clone(), connection.clone());
            connection
        })
    }

    pub(super) fn close_idle(&self) {
        lock(&self.0).retain(|_, connection| {
            Arc::strong_count(connection) > 1 || lock(&connection.used).elapsed() < IDLE_TIMEOUT
        });
    }
}

impl TargetConnection {
    async fn client(&self) -> Result<Arc<TargetClient>, Problem> {
        let mut cached = self.client.lock().await;
        match &*cached {
            CachedClient::Open(client) if !client.is_closed() => return Ok(client.clone()),
            CachedClient::Failed(at, why) if at.elapsed() < RETRY_DELAY => {
                return Err(Problem::new(ProblemCode::TargetUnreachable, why.clone()));
            }
            CachedClient::Open(_) | CachedClient::Failed(..) | CachedClient::None => {}
        }
        match connect_target(&self.target).await.map(Arc::new) {
            Ok(client) => {
                *cached = CachedClient::Open(client.clone());
                Ok(client)
            }
            Err(error) => {
                *cached = CachedClient::Failed(Instant::now(), error.to_string());
                Err(Problem::new(ProblemCode::TargetUnreachable, error.to_string()))
            }
        }
    }
}
