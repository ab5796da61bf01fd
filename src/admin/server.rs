//! The HTTP server: binds `admin.listen`, and follows changes of the configuration.

use super::access::{guard, refuse_other_sites};
use super::app::App;
use super::connections;
use super::console::console;
#[cfg(feature = "otlp")]
use super::exposition::exposition;
use super::limits::Limits;
#[cfg(feature = "openapi")]
use super::openapi::openapi;
use super::problem::{Problem, ProblemCode};
use super::{paths, sampler};
use crate::config::{Admin, Config};
use crate::status::process::ProcessStatus;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
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

/// Maximum size of a request body in bytes.
const MAX_BODY_BYTES: usize = 16 << 10;

/// Time that open requests have to finish when a socket is closed.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// The listen address cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("admin.listen: cannot listen on {at}: {source}")]
pub struct ServerError {
    at: SocketAddr,
    source: std::io::Error,
}

impl ServerError {
    /// What failed, without the key of the configuration.
    pub(crate) fn of_address(&self) -> String {
        format!("cannot listen on {}: {}", self.at, self.source)
    }
}

/// The admin server.
pub struct Server {
    app: App,
    configs: watch::Receiver<Config>,
    limits: Limits,
    /// Paths of the caller, behind the same checks as the API.
    beside: Router,
    serving: Option<Serving>,
}

impl Server {
    /// Binds `admin.listen` and starts to serve, if it is configured.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(configs: watch::Receiver<Config>, status: Arc<ProcessStatus>) -> Result<Server, ServerError> {
        Server::bind_with(configs, status, Limits::of_process(), Router::new()).await
    }

    /// As [`Server::bind`], and serves the paths of `beside` too. The same rules decide who may use them.
    pub(crate) async fn bind_beside(
        configs: watch::Receiver<Config>,
        status: Arc<ProcessStatus>,
        beside: Router,
    ) -> Result<Server, ServerError> {
        Server::bind_with(configs, status, Limits::of_process(), beside).await
    }

    async fn bind_with(
        configs: watch::Receiver<Config>,
        status: Arc<ProcessStatus>,
        limits: Limits,
        beside: Router,
    ) -> Result<Server, ServerError> {
        let app = App::new(status, configs.clone(), limits.waiters());
        let admin = configs.borrow().admin.clone();
        let serving = match admin {
            Some(admin) => Some(Serving::start(&app, listen(admin.listen).await?, admin, limits, &beside)),
            None => None,
        };
        Ok(Server { app, configs, limits, beside, serving })
    }

    /// The bound address; `None` if `admin` is not configured.
    pub fn address(&self) -> Option<SocketAddr> {
        self.serving.as_ref().map(|serving| serving.at)
    }

    /// What `/metrics` shows, for another way to export it.
    #[cfg(feature = "otlp")]
    pub(crate) fn exposition(&self) -> impl Fn() -> Option<String> + Send + 'static + use<> {
        let app = self.app.clone();
        move || exposition(&app).ok()
    }

    /// Serves until `stop`, and follows the configuration. If a new address cannot be bound, it keeps the old one.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.configs.changed() => if changed.is_err() {
                    // The sender is gone: the configuration cannot change any more.
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
                (_, admin) => self.rebind(admin).await,
            }
        }
        self.close().await;
    }

    /// Closes the old socket before the new access rule applies. If both use the same port, closes it before binding the
    /// new one.
    async fn rebind(&mut self, admin: Option<Admin>) {
        let Some(admin) = admin else { return drop(self.close().await) };
        let same_port = self.serving.as_ref().is_some_and(|serving| serving.at.port() == admin.listen.port());
        let before = if same_port { self.close().await } else { None };
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
        self.close().await;
        self.serving = Some(Serving::start(&self.app, listener, admin, self.limits, &self.beside));
    }

    /// Returns the address and settings of the closed socket.
    async fn close(&mut self) -> Option<(SocketAddr, Admin)> {
        let serving = self.serving.take()?;
        Some(serving.end().await)
    }
}

async fn listen(at: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(at).await.map_err(|source| ServerError { at, source })
}

/// A served socket and its sampler.
struct Serving {
    admin: Admin,
    at: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Serving {
    fn start(app: &App, listener: TcpListener, admin: Admin, limits: Limits, beside: &Router) -> Serving {
        let at = listener.local_addr().unwrap_or(admin.listen);
        tracing::info!(listen = %at, "admin API listening");
        app.access.change(&admin);
        let stop = CancellationToken::new();
        let router = router(app.clone(), beside.clone()).layer(Extension(stop.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(connections::serve(listener, router, limits, stop.clone()));
        tasks.spawn(sampler::run(app.clone(), stop.clone()));
        Serving { admin, at, stop, tasks }
    }

    /// Stops accepting connections and gives open requests a moment to finish.
    async fn end(mut self) -> (SocketAddr, Admin) {
        self.stop.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // Dropping the tasks aborts requests that take longer.
        let _ = timeout(SHUTDOWN_GRACE, ended).await;
        (self.at, self.admin)
    }
}

fn router(app: App, beside: Router) -> Router {
    paths::protected()
        .merge(beside.with_state(()))
        .route("/api/openapi.json", get(openapi))
        .layer(middleware::from_fn_with_state(app.access.clone(), guard))
        .merge(paths::public())
        .merge(console())
        .fallback(async || Problem::new(ProblemCode::NoSuchPath, "no such path"))
        .method_not_allowed_fallback(async || {
            Problem::new(ProblemCode::MethodNotAllowed, "method not allowed for this path")
        })
        .layer(middleware::from_fn(refuse_other_sites))
        .layer(middleware::map_response(harden))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(app)
}

#[cfg(not(feature = "openapi"))]
async fn openapi() -> Problem {
    Problem::new(ProblemCode::NoSuchPath, "this build has no API description")
        .remedy("build it with the Cargo feature openapi")
}

/// Responses are not cached unless they say so, and their content type is not guessed.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
