//! Server-sent events: changes of the process, of its tenants and of one tenant's users.

use super::answer::Query;
use super::app::App;
use super::overview::Status;
use super::problem::{Problem, ProblemCode};
use crate::model::UserId;
use crate::status::report::{IDLE_STEP, TenantReport};
use crate::status::user_watch::Listener;
use axum::Extension;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

/// Interval at which process and tenants are compared with what the client has.
const COMPARE_INTERVAL: Duration = Duration::from_secs(1);
/// Time for which changed users are collected into one event.
const USERS_WINDOW: Duration = Duration::from_millis(100);
/// Maximum number of ids in an event; a larger one names none.
const MAX_IDS: usize = 1_000;

/// Which events to send.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct EventParams {
    /// Also report the users of this tenant as they are written.
    users: Option<String>,
}

/// Stream of changes.
///
/// Event types: `status` (as `/api/status`) and `tenants` (`{"tenants": [those that changed]}`), each at most once a
/// second, and `users` (`{"tenant", "ids"}`; `ids` is empty if too many changed to list them).
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/api/events",
        tag = "process",
        params(EventParams),
        responses(
            (status = 200, description = "Server-sent events until the client disconnects.", body = String, content_type = "text/event-stream"),
            (status = 400, description = "Invalid parameter.", body = Problem),
            (status = 404, description = "Unknown tenant.", body = Problem),
            (status = 503, description = "Too many listeners.", body = Problem),
        )
    )
)]
pub(super) async fn events(
    State(app): State<App>,
    Extension(stop): Extension<CancellationToken>,
    Query(params): Query<EventParams>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let Ok(permit) = app.listeners.clone().try_acquire_owned() else {
        return Err(
            Problem::new(ProblemCode::TooManyListeners, "too many event listeners").remedy("close another console")
        );
    };
    let tenant = params.users.map(|name| app.tenant(&name)).transpose()?;
    let users = tenant.map(|tenant| app.status.user_watch.listen(&tenant.id));
    let mut timer = interval(COMPARE_INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = EventStream {
        timer,
        users,
        pending: None,
        status: String::new(),
        tenants: app.report().tenants.iter().map(|tenant| (tenant.tenant.clone(), TenantDigest::of(tenant))).collect(),
        ready: VecDeque::new(),
        app,
        stop,
        _permit: permit,
    };
    let stream = futures_util::stream::unfold(events, async |mut events| {
        let event = events.next().await?;
        Some((Ok(event), events))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

/// The events of one client, and what it has already.
struct EventStream {
    app: App,
    timer: Interval,
    users: Option<Listener>,
    pending: Option<PendingUsers>,
    status: String,
    tenants: HashMap<String, TenantDigest>,
    ready: VecDeque<Event>,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

/// Changed users that the client has not received yet.
struct PendingUsers {
    ids: BTreeSet<UserId>,
    /// More than [`MAX_IDS`] changed: the ids are not complete.
    are_too_many: bool,
    due: Instant,
}

/// The parts of a tenant's report whose change is an event. Positions move all the time: a lag below [`IDLE_STEP`] counts
/// as none.
#[derive(PartialEq)]
struct TenantDigest {
    state: &'static str,
    lag_bytes: Option<u64>,
    lag_tenths: Option<u64>,
    queue_bytes: Option<u64>,
    queue_users: Option<u64>,
    rejected: u64,
    is_failing: bool,
    error: Option<String>,
    pause: Option<String>,
}

impl TenantDigest {
    fn of(tenant: &TenantReport) -> TenantDigest {
        TenantDigest {
            state: tenant.state,
            lag_bytes: tenant.lag_bytes.filter(|bytes| *bytes >= IDLE_STEP),
            lag_tenths: tenant.lag_seconds.map(|seconds| (seconds * 10.0) as u64),
            queue_bytes: tenant.queue_bytes,
            queue_users: tenant.queue_users,
            rejected: tenant.rejected,
            is_failing: tenant.failures > 0,
            error: tenant.last_error.clone(),
            pause: tenant.paused.as_ref().map(|pause| pause.reason.clone()),
        }
    }
}

#[derive(Serialize)]
struct TenantsEvent<'a> {
    tenants: Vec<&'a TenantReport>,
}

#[derive(Serialize)]
struct UsersEvent<'a> {
    tenant: &'a str,
    ids: BTreeSet<UserId>,
}

impl EventStream {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let due = self.pending.as_ref().map(|pending| pending.due);
            let changed_users = async {
                match &mut self.users {
                    Some(users) => users.next_users().await,
                    None => std::future::pending().await,
                }
            };
            let window_end = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return None,
                _ = self.timer.tick() => self.compare(),
                users = changed_users => {
                    let pending = self.pending.get_or_insert_with(PendingUsers::new);
                    pending.add(&users);
                }
                () = window_end => self.send_users(),
            }
        }
    }

    fn compare(&mut self) {
        let status = serde_json::to_string(&Status::of(&self.app)).unwrap_or_default();
        if status != self.status {
            self.ready.push_back(Event::default().event("status").data(&status));
            self.status = status;
        }
        let report = self.app.report();
        let mut digests = HashMap::with_capacity(report.tenants.len());
        let mut changed = Vec::new();
        for tenant in &report.tenants {
            let digest = TenantDigest::of(tenant);
            if self.tenants.get(&tenant.tenant) != Some(&digest) {
                changed.push(tenant);
            }
            digests.insert(tenant.tenant.clone(), digest);
        }
        self.tenants = digests;
        if !changed.is_empty() {
            self.ready.extend(Event::default().event("tenants").json_data(TenantsEvent { tenants: changed }).ok());
        }
    }

    fn send_users(&mut self) {
        let (Some(pending), Some(users)) = (self.pending.take(), &self.users) else { return };
        let ids = if pending.are_too_many { BTreeSet::new() } else { pending.ids };
        let changed = UsersEvent { tenant: users.tenant().as_str(), ids };
        self.ready.extend(Event::default().event("users").json_data(changed).ok());
    }
}

impl PendingUsers {
    fn new() -> PendingUsers {
        PendingUsers { ids: BTreeSet::new(), are_too_many: false, due: Instant::now() + USERS_WINDOW }
    }

    /// No ids mean that too many users changed to list them.
    fn add(&mut self, ids: &[UserId]) {
        self.are_too_many |= ids.is_empty() || self.ids.len() + ids.len() > MAX_IDS;
        if !self.are_too_many {
            self.ids.extend(ids.iter().cloned());
        }
    }
}
