//! What has changed, as it changes (server-sent events).

use super::answer::{Problem, Query};
use super::app::App;
use super::overview::Status;
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

/// Tenants and process are compared with what they were so often.
const EVERY: Duration = Duration::from_secs(1);
/// Users that arrive within this time are told of together.
const GATHER: Duration = Duration::from_millis(100);
/// More of them are not named.
const NAMED: usize = 1_000;

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
    let Ok(place) = app.listeners.clone().try_acquire_owned() else {
        return Err(Problem::unavailable("too many event listeners").remedy("close another console"));
    };
    let tenant = params.users.map(|name| app.tenant(&name)).transpose()?;
    let users = tenant.map(|tenant| app.live.user_watch.listen(&tenant.id));
    let mut timer = interval(EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = EventStream {
        timer,
        users,
        arrived: None,
        status: String::new(),
        tenants: app.report().tenants.iter().map(|tenant| (tenant.tenant.clone(), Look::at(tenant))).collect(),
        ready: VecDeque::new(),
        app,
        stop,
        _place: place,
    };
    let stream = futures_util::stream::unfold(events, async |mut events| {
        let event = events.next().await?;
        Some((Ok(event), events))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

/// What one listener has been told.
struct EventStream {
    app: App,
    timer: Interval,
    users: Option<Listener>,
    /// Users that have arrived, and when that is told; none of them where they are too many.
    arrived: Option<(BTreeSet<UserId>, bool, Instant)>,
    status: String,
    tenants: HashMap<String, Look>,
    ready: VecDeque<Event>,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// What of a tenant is worth an event: positions move all the time, and mean nothing as long as nobody lags.
#[derive(PartialEq)]
struct Look {
    state: &'static str,
    lag: Option<u64>,
    tenths: Option<u64>,
    queue: (Option<u64>, Option<u64>),
    rejected: u64,
    error: Option<String>,
}

impl Look {
    fn at(tenant: &TenantReport) -> Look {
        Look {
            state: tenant.state,
            lag: tenant.lag_bytes.filter(|bytes| *bytes >= IDLE_STEP),
            tenths: tenant.lag_seconds.map(|seconds| (seconds * 10.0) as u64),
            queue: (tenant.queue_bytes, tenant.queue_users),
            rejected: tenant.rejected,
            error: tenant.last_error.clone(),
        }
    }
}

#[derive(Serialize)]
struct Changed<'a> {
    tenants: Vec<&'a TenantReport>,
}

#[derive(Serialize)]
struct Arrived<'a> {
    tenant: &'a str,
    ids: BTreeSet<UserId>,
}

impl EventStream {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let due = self.arrived.as_ref().map(|(.., due)| *due);
            let user_watch = async {
                match &mut self.users {
                    Some(users) => users.user_watch().await,
                    None => std::future::pending().await,
                }
            };
            let is_due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return None,
                _ = self.timer.tick() => self.compare(),
                users = user_watch => {
                    let new = || (BTreeSet::new(), false, Instant::now() + GATHER);
                    let (ids, are_many, _) = self.arrived.get_or_insert_with(new);
                    *are_many |= users.is_empty() || ids.len() + users.len() > NAMED;
                    if !*are_many {
                        ids.extend(users.iter().cloned());
                    }
                }
                () = is_due => self.tell_users(),
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
        let mut looks = HashMap::with_capacity(report.tenants.len());
        let mut changed = Vec::new();
        for tenant in &report.tenants {
            let look = Look::at(tenant);
            if self.tenants.get(&tenant.tenant) != Some(&look) {
                changed.push(tenant);
            }
            looks.insert(tenant.tenant.clone(), look);
        }
        self.tenants = looks;
        if !changed.is_empty() {
            self.ready.extend(Event::default().event("tenants").json_data(Changed { tenants: changed }).ok());
        }
    }

    fn tell_users(&mut self) {
        let (Some((ids, are_many, _)), Some(users)) = (self.arrived.take(), &self.users) else { return };
        let ids = if are_many { BTreeSet::new() } else { ids };
        let arrived = Arrived { tenant: users.tenant().as_str(), ids };
        self.ready.extend(Event::default().event("users").json_data(arrived).ok());
    }
}
