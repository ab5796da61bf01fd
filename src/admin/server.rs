//! Listening, and which path leads where.

use super::access::{Access, guard};
use super::answer::Problem;
use super::app::App;
use super::{exposition, health, overview, sampler, users};
use crate::config::{Admin, Config};
use crate::service::Live;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::Response;
use axum::{Json, Router};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Info, OpenApi, OpenApiBuilder, SecurityRequirement};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// No body that is taken is longer.
const LARGEST_BODY: usize = 16 << 10;

/// It cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("admin.listen: cannot listen on {at}: {source}")]
pub struct ServerError {
    at: SocketAddr,
    source: std::io::Error,
}

/// The process over HTTP, from [`Server::bind`] on.
pub struct Server {
    live: Arc<Live>,
    configs: watch::Receiver<Config>,
    bound: Option<Bound>,
}

/// A socket and what it was bound for.
struct Bound {
    admin: Admin,
    listener: TcpListener,
}

impl Bound {
    async fn to(admin: &Admin) -> Result<Bound, ServerError> {
        let listener = TcpListener::bind(admin.listen).await;
        let listener = listener.map_err(|source| ServerError { at: admin.listen, source })?;
        tracing::info!(listen = %listener.local_addr().unwrap_or(admin.listen), "the process is shown over HTTP");
        Ok(Bound { admin: admin.clone(), listener })
    }
}

impl Server {
    /// Listens where the configuration says so, if it does.
    pub async fn bind(configs: watch::Receiver<Config>, live: Arc<Live>) -> Result<Server, ServerError> {
        let admin = configs.borrow().admin.clone();
        let bound = match &admin {
            Some(admin) => Some(Bound::to(admin).await?),
            None => None,
        };
        Ok(Server { live, configs, bound })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.bound.as_ref()?.listener.local_addr().ok()
    }

    /// Serves until `stop`, and follows the configuration. Where another address cannot be had, it stays where it is.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let begun = self.bound.take().map(|bound| Serving::start(bound, &self.live, &self.configs));
            let next = self.changes(begun.as_ref(), &stop).await;
            if let Some(serving) = begun {
                serving.end().await;
            }
            match next {
                Next::Stop => return,
                Next::Nowhere => {}
                Next::Here(bound) => self.bound = Some(bound),
            }
        }
    }

    /// Until it is to listen elsewhere.
    async fn changes(&mut self, serving: Option<&Serving>, stop: &CancellationToken) -> Next {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Next::Stop,
                changed = self.configs.changed() => if changed.is_err() {
                    // Nobody can change it any more.
                    stop.cancelled().await;
                    return Next::Stop;
                }
            }
            let admin = self.configs.borrow_and_update().admin.clone();
            match (admin, serving) {
                (Some(admin), Some(serving)) if admin.listen == serving.listen => serving.app.access.change(&admin),
                (Some(admin), _) => match Bound::to(&admin).await {
                    Ok(bound) => return Next::Here(bound),
                    Err(error) => tracing::error!(%error, "it stays as it was"),
                },
                (None, Some(_)) => return Next::Nowhere,
                (None, None) => {}
            }
        }
    }
}

enum Next {
    Stop,
    Nowhere,
    Here(Bound),
}

/// A socket that is served.
struct Serving {
    app: App,
    listen: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Serving {
    fn start(Bound { admin, listener }: Bound, live: &Arc<Live>, configs: &watch::Receiver<Config>) -> Serving {
        let stop = CancellationToken::new();
        let app = App::new(live.clone(), configs.clone(), Access::new(&admin), stop.clone());
        let router = router(app.clone());
        let (sampled, stopped) = (app.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(stopped.clone().cancelled_owned());
            tokio::select! {
                // It ends by itself never.
                _ = served => {}
                () = sampler::run(sampled) => {}
            }
        });
        Serving { app, listen: admin.listen, stop, task }
    }

    /// No new connection is taken; whoever is being answered is given a moment.
    async fn end(self) {
        self.stop.cancel();
        let mut task = self.task;
        if tokio::time::timeout(std::time::Duration::from_secs(1), &mut task).await.is_err() {
            task.abort();
        }
    }
}

fn documented() -> OpenApiRouter<App> {
    let description = OpenApiBuilder::new()
        .info(
            Info::builder()
                .title("users-sync")
                .version(overview::VERSION)
                .description(Some(
                    "How a running users-sync is, its tenants and their users, and what may be asked of it.",
                ))
                .build(),
        )
        .security(Some([SecurityRequirement::new("token", Vec::<String>::new())]))
        .build();
    OpenApiRouter::with_openapi(description)
        .routes(routes!(exposition::metrics))
        .routes(routes!(overview::status))
        .routes(routes!(overview::tenants))
        .routes(routes!(overview::tenant))
        .routes(routes!(users::users))
        .routes(routes!(users::user))
}

/// What a load balancer and a browser see before there is a token.
fn open() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(health::healthz)).routes(routes!(health::readyz))
}

fn router(app: App) -> Router {
    let (guarded, mut description) = documented().split_for_parts();
    let (open, of_open) = open().split_for_parts();
    description.merge(of_open);
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    description.components.get_or_insert_default().add_security_scheme("token", scheme);
    guarded
        .route("/api/openapi.json", axum::routing::get(async move || Json::<OpenApi>(description)))
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .merge(open)
        .fallback(async || Problem::absent("there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method")
        })
        .layer(middleware::map_response(harden))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(app)
}

/// An answer is of this moment, and what it says it is.
async fn harden(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
