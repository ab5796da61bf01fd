//! Accepts and limits the HTTP server's connections. A connection counts as unauthorized until one of its requests is
//! authorized. If there are too many unauthorized ones, the oldest is closed, so a new health check is always answered.

use super::limits::Limits;
use super::write_timeout::WriteTimeout;
use crate::sync::lock;
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Where connections come from.
pub(super) trait Accept: Send + 'static {
    fn accept(&mut self) -> impl Future<Output = io::Result<TcpStream>> + Send;
}

impl Accept for TcpListener {
    async fn accept(&mut self) -> io::Result<TcpStream> {
        TcpListener::accept(self).await.map(|(stream, _)| stream)
    }
}

/// The open connections.
struct Connections {
    limits: Limits,
    /// Those without an authorized request, the oldest first.
    unauthorized: Mutex<BTreeMap<u64, CancellationToken>>,
    authorized: Arc<Semaphore>,
}

/// One connection. Handlers find it in the extensions of their request.
#[derive(Clone)]
pub(super) struct Connection(Arc<Open>);

struct Open {
    number: u64,
    connections: Arc<Connections>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    evicted: CancellationToken,
}

impl Connections {
    fn new(limits: Limits) -> Arc<Connections> {
        let authorized = Arc::new(Semaphore::new(limits.authorized));
        Arc::new(Connections { limits, unauthorized: Mutex::default(), authorized })
    }

    /// Adds a connection. Closes the oldest unauthorized ones that are too many.
    fn open(self: &Arc<Self>, number: u64) -> Connection {
        let evicted = CancellationToken::new();
        let mut unauthorized = lock(&self.unauthorized);
        unauthorized.insert(number, evicted.clone());
        while unauthorized.len() > self.limits.unauthorized {
            close_oldest(&mut unauthorized);
        }
        Connection(Arc::new(Open { number, connections: self.clone(), permit: Mutex::default(), evicted }))
    }

    /// Closes the older half of the unauthorized connections, which returns their open files.
    fn close_half(&self) {
        let mut unauthorized = lock(&self.unauthorized);
        for _ in 0..unauthorized.len().div_ceil(2) {
            close_oldest(&mut unauthorized);
        }
    }
}

fn close_oldest(unauthorized: &mut BTreeMap<u64, CancellationToken>) {
    if let Some((_, oldest)) = unauthorized.pop_first() {
        oldest.cancel();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.connections.unauthorized).remove(&self.number);
    }
}

impl Connection {
    /// Marks the connection as authorized. Returns false if there are too many.
    pub(super) fn authorize(&self) -> bool {
        let Connection(open) = self;
        let mut permit = lock(&open.permit);
        if permit.is_none() {
            let Ok(free) = open.connections.authorized.clone().try_acquire_owned() else { return false };
            *permit = Some(free);
            lock(&open.connections.unauthorized).remove(&open.number);
        }
        true
    }

    async fn serve(self, stream: TcpStream, router: Router, stop: CancellationToken) {
        let limits = self.0.connections.limits;
        let evicted = self.0.evicted.clone();
        let router = TowerToHyperService::new(router);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(self.clone());
            request.extensions_mut().insert(limits);
            router.call(request)
        });
        let io = TokioIo::new(WriteTimeout::new(stream, limits.write_time));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_time)
            .max_buf_size(limits.header_bytes)
            .max_headers(limits.headers)
            .serve_connection(io, service);
        let mut served = std::pin::pin!(served);
        // Errors concern this client only: it disconnected, was too slow or sent no HTTP.
        tokio::select! {
            _ = served.as_mut() => return,
            () = evicted.cancelled() => return,
            () = stop.cancelled() => {}
        }
        served.as_mut().graceful_shutdown();
        let _ = served.await;
    }
}

/// Serves until `stop`, and then finishes the open requests.
pub(super) async fn serve(mut listener: impl Accept, router: Router, limits: Limits, stop: CancellationToken) {
    let connections = Connections::new(limits);
    let mut tasks = JoinSet::new();
    let mut is_failing = false;
    for number in 0.. {
        let accepted = loop {
            tokio::select! {
                () = stop.cancelled() => break None,
                // A finished task is removed; a panic in a handler closes only its own connection.
                Some(_) = tasks.join_next() => {}
                accepted = listener.accept() => break Some(accepted),
            }
        };
        match accepted {
            Some(Ok(stream)) => {
                is_failing = false;
                let _ = stream.set_nodelay(true);
                tasks.spawn(connections.open(number).serve(stream, router.clone(), stop.clone()));
            }
            // The client disconnected before it was accepted.
            Some(Err(error)) if is_of_one_client(&error) => {}
            Some(Err(error)) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(%error, "admin API cannot accept connections, retrying");
                }
                connections.close_half();
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = sleep(limits.accept_pause) => {}
                }
            }
            None => break,
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

fn is_of_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
