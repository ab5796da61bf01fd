//! What the handlers share.

use super::access::Access;
use super::answer::Problem;
use super::history::History;
use super::jobs::Jobs;
use super::targets::Targets;
use crate::config::{Config, Tenant};
use crate::status::live::{ProcessStatus, Role};
use crate::status::report::Report;
use axum::extract::FromRef;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, watch};

/// So many may wait for a user at the same time: each is a request that is held open.
const WAITERS: usize = 4_096;
/// So many may listen to events: each compares all tenants once a second.
const LISTENERS: usize = 64;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct App(Arc<Inner>);

pub(super) struct Inner {
    pub(super) live: Arc<ProcessStatus>,
    pub(super) configs: watch::Receiver<Config>,
    pub(super) access: Access,
    pub(super) history: History,
    pub(super) targets: Targets,
    /// Places for those who wait for a user.
    pub(super) waiters: Semaphore,
    /// Places for those who listen to events.
    pub(super) listeners: Arc<Semaphore>,
    pub(super) jobs: Jobs,
    /// What the state says, while this process does not replicate.
    state: Mutex<Option<Arc<Report>>>,
}

impl Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl FromRef<App> for Access {
    fn from_ref(app: &App) -> Access {
        app.access.clone()
    }
}

impl FromRef<App> for Jobs {
    fn from_ref(app: &App) -> Jobs {
        app.jobs.clone()
    }
}

impl FromRef<App> for Arc<ProcessStatus> {
    fn from_ref(app: &App) -> Arc<ProcessStatus> {
        app.live.clone()
    }
}

impl App {
    pub(super) fn new(live: Arc<ProcessStatus>, configs: watch::Receiver<Config>) -> App {
        App(Arc::new(Inner {
            live,
            configs,
            access: Access::default(),
            history: History::default(),
            targets: Targets::default(),
            waiters: Semaphore::new(WAITERS),
            listeners: Arc::new(Semaphore::new(LISTENERS)),
            jobs: Jobs::default(),
            state: Mutex::default(),
        }))
    }
}

impl Inner {
    /// How everything is: from memory where this process replicates, else as the state had it a moment ago.
    pub(super) fn report(&self) -> Arc<Report> {
        if let Some(report) = self.live.report() {
            return Arc::new(report);
        }
        let read = self.state.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let last = read.or_else(|| self.live.last_report());
        last.unwrap_or_else(|| {
            Arc::new(Report::of_state(&self.configs.borrow(), &Default::default(), &Default::default()))
        })
    }

    pub(super) fn state_says(&self, report: Option<Report>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = report.map(Arc::new);
    }

    /// The tenant of the configuration.
    pub(super) fn tenant(&self, name: &str) -> Result<Tenant, Problem> {
        let config = self.configs.borrow();
        let found = config.tenants.iter().find(|tenant| tenant.id.as_str() == name);
        found.cloned().ok_or_else(|| Problem::absent("no such tenant in the configuration"))
    }

    /// Whether it is what it should be: it replicates, or is able to take over.
    pub(super) fn readiness(&self) -> (bool, Role, Option<String>) {
        let (role, reason) = self.live.role();
        (matches!(role, Role::Streaming | Role::Standby) && reason.is_none(), role, reason)
    }
}
