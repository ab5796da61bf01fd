//! Listening, where the configuration says so.

use super::access::guard;
use super::answer::Problem;
use super::app::App;
use super::console::console;
#[cfg(feature = "openapi")]
use super::openapi::openapi;
use super::{paths, sampler};
use crate::config::{Admin, Config};
use crate::status::live::ProcessStatus;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// No body that is taken is longer.
const LARGEST_BODY: usize = 16 << 10;

/// Whoever is being answered when a socket is given up has so long.
const GOODBYE: Duration = Duration::from_secs(1);

/// It cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("admin.listen: cannot listen on {at}: {source}")]
pub struct ServerError {
    at: SocketAddr,
    source: std::io::Error,
}

/// The process over HTTP, from [`Server::bind`] on.
pub struct Server {
    app: App,
    configs: watch::Receiver<Config>,
    serving: Option<Serving>,
}

impl Server {
    /// Listens where the configuration says so, if it does.
    pub async fn bind(configs: watch::Receiver<Config>, live: Arc<ProcessStatus>) -> Result<Server, ServerError> {
        let app = App::new(live, configs.clone());
        let admin = configs.borrow().admin.clone();
        let serving = match admin {
            Some(admin) => Some(Serving::start(&app, listen(admin.listen).await?, admin)),
            None => None,
        };
        Ok(Server { app, configs, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.serving.as_ref().map(|serving| serving.at)
    }

    /// Serves until `stop`, and follows the configuration. Where another address cannot be had, cannot bind the new admin.listen, keeping the old address.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.configs.changed() => if changed.is_err() {
                    // Nobody can change it any more.
                    stop.cancelled().await;
                    break;
                }
            }
            let admin = self.configs.borrow_and_update().admin.clone();
            match (&mut self.serving, admin) {
                (Some(serving), Some(admin)) if admin.listen == serving.admin.listen => {
                    self.app.access.change(&admin);
                    serving.admin = admin;
                }
                (_, admin) => self.go_to(admin).await,
            }
        }
        self.leave().await;
    }

    /// The old socket is given up before anything is admitted by the new rule; where both have the same port, before the
    /// new one is bound.
    async fn go_to(&mut self, admin: Option<Admin>) {
        let Some(admin) = admin else { return drop(self.leave().await) };
        let is_taken = self.serving.as_ref().is_some_and(|serving| serving.at.port() == admin.listen.port());
        let before = if is_taken { self.leave().await } else { None };
        let (listener, admin) = match (listen(admin.listen).await, before) {
            (Ok(listener), _) => (listener, admin),
            (Err(error), before) => {
                tracing::error!(%error, "cannot bind the new admin.listen, keeping the old address");
                let Some((at, before)) = before else { return };
                match listen(at).await {
                    Ok(listener) => (listener, before),
                    Err(error) => {
                        return tracing::error!(%error, "admin API stopped: cannot bind its old address either");
                    }
                }
            }
        };
        self.leave().await;
        self.serving = Some(Serving::start(&self.app, listener, admin));
    }

    /// Gives where and how it was.
    async fn leave(&mut self) -> Option<(SocketAddr, Admin)> {
        let serving = self.serving.take()?;
        Some(serving.end().await)
    }
}

async fn listen(at: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(at).await.map_err(|source| ServerError { at, source })
}

/// A socket that is served, and who looks for those who ask.
struct Serving {
    admin: Admin,
    at: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Serving {
    fn start(app: &App, listener: TcpListener, admin: Admin) -> Serving {
        let at = listener.local_addr().unwrap_or(admin.listen);
        tracing::info!(listen = %at, "admin API listening");
        app.access.change(&admin);
        let stop = CancellationToken::new();
        let router = router(app.clone()).layer(Extension(stop.clone()));
        let served = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // It ends when it is told to, and in no other way.
            let _ = served.await;
        });
        tasks.spawn(sampler::run(app.clone(), stop.clone()));
        Serving { admin, at, stop, tasks }
    }

    /// No new connection is taken; whoever is being answered is given a moment.
    async fn end(mut self) -> (SocketAddr, Admin) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // Whoever takes longer is cut off: dropping the tasks ends them.
        let _ = timeout(GOODBYE, ended).await;
        (self.at, self.admin)
    }
}

fn router(app: App) -> Router {
    paths::guarded()
        .route("/api/openapi.json", get(openapi))
        .layer(middleware::from_fn_with_state(app.access.clone(), guard))
        .merge(paths::open())
        .merge(console())
        .fallback(async || Problem::absent("no such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed for this path")
        })
        .layer(middleware::map_response(harden))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(app)
}

#[cfg(not(feature = "openapi"))]
async fn openapi() -> Problem {
    Problem::absent("this build has no API description").remedy("build it with the Cargo feature openapi")
}

/// An answer is of this moment, and what it says it is.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
