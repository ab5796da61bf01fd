//! The state that the handlers share.

use super::access::Access;
use super::activity::Activity;
use super::history::History;
use super::jobs::Jobs;
use super::problem::{Problem, ProblemCode};
use super::targets::Targets;
use crate::config::{Config, Tenant};
use crate::model::SourceTrouble;
use crate::status::process::{ProcessStatus, Role, RoleReport};
use crate::status::report::{Report, TroubleReport};
use crate::status::verdict::{Verdict, judge};
use crate::sync::lock;
use axum::extract::FromRef;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, watch};

/// Maximum number of event streams. Each compares all tenants once a second.
const MAX_LISTENERS: usize = 64;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct App(Arc<Inner>);

pub(super) struct Inner {
    pub(super) status: Arc<ProcessStatus>,
    pub(super) configs: watch::Receiver<Config>,
    pub(super) access: Access,
    pub(super) history: History,
    pub(super) activity: Activity,
    pub(super) targets: Targets,
    /// Permits for requests that wait for a user. Each holds a connection open.
    pub(super) waiters: Semaphore,
    /// Permits for event streams.
    pub(super) listeners: Arc<Semaphore>,
    pub(super) jobs: Jobs,
    /// The report from the state database, while this process does not replicate.
    state_report: Mutex<StateReading>,
}

/// What the state database said when it was read last.
#[derive(Clone, Default)]
pub(super) enum StateReading {
    /// This process replicates, or has not read it yet.
    #[default]
    Unread,
    /// It could not be read.
    Failed,
    Report(Arc<Report>),
}

impl Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Readiness of the process; without it, the reason.
pub(super) struct Readiness {
    pub(super) is_ready: bool,
    pub(super) role: Role,
    pub(super) reason: Option<String>,
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
        app.status.clone()
    }
}

impl App {
    pub(super) fn new(status: Arc<ProcessStatus>, configs: watch::Receiver<Config>, waiters: usize) -> App {
        App(Arc::new(Inner {
            status,
            configs,
            access: Access::default(),
            history: History::default(),
            activity: Activity::default(),
            targets: Targets::default(),
            waiters: Semaphore::new(waiters),
            listeners: Arc::new(Semaphore::new(MAX_LISTENERS)),
            jobs: Jobs::default(),
            state_report: Mutex::default(),
        }))
    }
}

impl Inner {
    /// From memory if this process replicates, else the last report read from the state database.
    pub(super) fn report(&self) -> Arc<Report> {
        if let Some(report) = self.status.report() {
            return Arc::new(report);
        }
        let read = lock(&self.state_report).clone();
        let unread = match read {
            StateReading::Report(report) => {
                if report.trouble.is_some() || report.is_held {
                    return report;
                }
                let (trouble, idle_processes) = (self.status.trouble(), self.beginning());
                return Arc::new(Report { trouble, idle_processes, ..(*report).clone() });
            }
            // The first session has not said yet whether it can read the state.
            StateReading::Failed if self.status.is_beginning() => None,
            StateReading::Unread => None,
            StateReading::Failed => Some(TroubleReport {
                code: SourceTrouble::State.code(),
                text: SourceTrouble::State.to_string(),
                since_seconds: 0.0,
            }),
        };
        // What this process knows: that it has no session, and what its last one did.
        let last = self.status.last_report().map(|last| (*last).clone());
        let report =
            last.unwrap_or_else(|| Report::of_state(&self.configs.borrow(), &Default::default(), &Default::default()));
        let (trouble, idle_processes) = (self.status.trouble().or(unread), self.beginning());
        Arc::new(Report { is_held: false, trouble, idle_processes, ..report })
    }

    /// This process, while it does not replicate yet.
    fn beginning(&self) -> Vec<String> {
        if self.status.is_beginning() { vec!["this one".to_owned()] } else { Vec::new() }
    }

    /// The verdict on the installation.
    pub(super) fn verdict(&self) -> Verdict {
        self.status.verdict().unwrap_or_else(|| judge(&self.report()))
    }

    pub(super) fn set_state_report(&self, reading: StateReading) {
        *lock(&self.state_report) = reading;
    }

    pub(super) fn tenant(&self, name: &str) -> Result<Arc<Tenant>, Problem> {
        let config = self.configs.borrow();
        let found = config.tenants.iter().find(|tenant| tenant.id.as_str() == name);
        found.cloned().ok_or_else(|| Problem::new(ProblemCode::NoSuchTenant, "no such tenant in the configuration"))
    }

    /// Ready means that the process streams, or is a standby that can take over.
    pub(super) fn readiness(&self) -> Readiness {
        let RoleReport { role, reason } = self.status.role();
        let is_ready = matches!(role, Role::Streaming | Role::Standby) && reason.is_none();
        Readiness { is_ready, role, reason }
    }
}
