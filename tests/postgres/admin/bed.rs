//! A running service with its admin API.

use super::http::{Answer, get};
use crate::support::{Bed, DEADLINE, log, pause};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use users_sync::admin::Server;
use users_sync::config::{Admin, Config};
use users_sync::pg::Secret;
use users_sync::replicator;
use users_sync::replicator::ServiceError;
use users_sync::status::process::ProcessStatus;

/// The service and its admin server, in this process.
pub struct AdminBed {
    pub at: SocketAddr,
    pub configs: watch::Sender<Config>,
    pub status: Arc<ProcessStatus>,
    stop: CancellationToken,
    service: JoinHandle<Result<(), ServiceError>>,
    server: JoinHandle<()>,
}

/// A free port on loopback.
pub fn loopback(token: Option<&str>) -> Option<Admin> {
    Some(Admin { listen: (Ipv4Addr::LOCALHOST, 0).into(), token: token.map(|token| Secret(token.to_owned())) })
}

impl AdminBed {
    pub async fn start(mut config: Config) -> AdminBed {
        log();
        config.admin = config.admin.or_else(|| loopback(None));
        let (sender, configs) = watch::channel(config);
        let (status, stop) = (Arc::<ProcessStatus>::default(), CancellationToken::new());
        let server = Server::bind(configs.clone(), status.clone()).await.unwrap();
        let at = server.address().unwrap();
        let server = tokio::spawn(server.run(stop.clone()));
        let service = tokio::spawn(replicator::run_reloading(configs, status.clone(), stop.clone()));
        AdminBed { at, configs: sender, status, stop, service, server }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.service.await.unwrap().unwrap();
        self.server.await.unwrap();
    }

    pub async fn get(&self, path: &str) -> Answer {
        get(self.at, path).await
    }

    /// The answer's JSON. Panics if the status is not 200.
    #[track_caller]
    pub fn json<'a>(&'a self, path: &'a str) -> impl Future<Output = Value> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.get(path).await;
            assert_eq!(answer.status, 200, "{caller}: {path}: {}", answer.body);
            answer.json()
        }
    }

    /// Repeats the request until the answer is as wanted.
    #[track_caller]
    pub fn becomes<'a>(
        &'a self,
        path: &'a str,
        is_wanted: impl Fn(&Answer) -> bool + 'a,
    ) -> impl Future<Output = Answer> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + DEADLINE;
            loop {
                let answer = self.get(path).await;
                if is_wanted(&answer) {
                    return answer;
                }
                assert!(Instant::now() < deadline, "{caller}: {path} is {} {}", answer.status, answer.body);
                pause().await;
            }
        }
    }

    /// Waits until the tenant is in this state.
    #[track_caller]
    pub fn state_is<'a>(&'a self, tenant: &'a str, state: &'a str) -> impl Future<Output = Value> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let path = format!("/api/tenants/{tenant}");
            let is_there = |answer: &Answer| answer.json()["state"] == state;
            let deadline = Instant::now() + DEADLINE;
            loop {
                let answer = self.get(&path).await;
                if is_there(&answer) {
                    return answer.json();
                }
                assert!(Instant::now() < deadline, "{caller}: {tenant} is not {state} but {}", answer.body);
                pause().await;
            }
        }
    }
}

/// Inserts users of a tenant with ids that sort like their numbers.
pub async fn add(bed: &Bed, tenant: &str, users: u32) {
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, first_name, last_name, email, created_at, updated_at)
         SELECT '{tenant}-' || lpad(n::text, 7, '0'), '{tenant}', 'Ann', 'No' || n, 'ann' || n || '@example.org',
           date_trunc('second', now()), now()
         FROM generate_series(1, {users}) n"
    ))
    .await;
}
