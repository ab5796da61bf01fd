//! The jobs that were asked for over HTTP: resyncs and comparisons, at most one per tenant at a time. Finished jobs are kept
//! in memory until newer ones replace them; a restart forgets them.

use super::problem::{Problem, ProblemCode};
use crate::model::TenantId;
use crate::status::process::ProcessStatus;
use crate::status::progress_handle::ProgressHandle;
use crate::sync::lock;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

/// Number of ended jobs that are kept.
const MAX_ENDED: usize = 100;
/// Maximum number of running jobs: each verification holds a snapshot of the source.
const MAX_RUNNING: usize = 8;

/// The jobs, oldest first. Clones share the list.
#[derive(Clone, Default)]
pub(super) struct Jobs(Arc<Mutex<VecDeque<Job>>>);

/// A resync or verification, and its outcome.
#[derive(Clone, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Job {
    /// Id of the job.
    job: String,
    kind: JobKind,
    tenant: String,
    state: JobState,
    /// Share of the source read for it, from 0 to 1. Null if another process reads it.
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1))]
    progress: Option<f64>,
    #[serde(skip)]
    scan_progress: ProgressHandle,
    #[serde(skip)]
    cancelled: CancellationToken,
    /// The differences that a verification found; after a repair, those that remain.
    result: Option<JobResult>,
    /// Why it failed.
    error: Option<JobError>,
}

/// Why a job failed.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct JobError {
    /// The stable code: the tenant's reason code, a code of a problem, `job_cancelled`, `job_too_slow`, `verify_failed` or
    /// `tenant_without_users`.
    pub(super) code: &'static str,
    /// What failed.
    pub(super) detail: String,
    /// How to fix it.
    pub(super) remedy: Option<String>,
}

#[derive(Clone, Copy, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum JobKind {
    Resync,
    Verify,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
enum JobState {
    Running,
    Done,
    Failed,
}

/// Differences between source and target.
#[derive(Clone, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct JobResult {
    /// Users missing in the target.
    pub(super) missing: u64,
    /// Users that only the target has.
    pub(super) extra: u64,
    /// Users with different values.
    pub(super) different: u64,
    /// Users that the target rejects. They were not compared.
    pub(super) rejected: u64,
    /// Ids of some of these users.
    pub(super) ids: Vec<String>,
}

impl Job {
    pub(super) fn id(&self) -> &str {
        &self.job
    }

    /// With the current progress: of the tenant's snapshot for a resync, of its own read for a verification.
    pub(super) fn with_progress(self, status: &ProcessStatus) -> Job {
        let progress = match (self.state, self.kind) {
            (JobState::Running, JobKind::Resync) => status.snapshot_share(&TenantId::new(&self.tenant)),
            (JobState::Running, JobKind::Verify) => self.scan_progress.share(),
            _ => self.progress,
        };
        Job { progress, ..self }
    }
}

/// A job that runs.
pub(super) struct StartedJob {
    pub(super) id: String,
    /// Cancelled on request.
    pub(super) cancelled: CancellationToken,
}

impl Jobs {
    /// Adds a running job and returns its id.
    ///
    /// # Errors
    /// Another job is running for the tenant, or too many jobs are running.
    pub(super) fn start(&self, kind: JobKind, tenant: &str, progress: &ProgressHandle) -> Result<StartedJob, Problem> {
        let mut jobs = self.lock();
        let running = jobs.iter().filter(|job| job.state == JobState::Running);
        let (mut count, mut other) = (0, None);
        for job in running {
            count += 1;
            other = other.or((job.tenant == tenant).then(|| job.job.clone()));
        }
        if let Some(other) = other {
            let problem = Problem::new(ProblemCode::JobRunning, "a job is already running for this tenant");
            return Err(problem.remedy(format!("wait for /api/jobs/{other}, or cancel it")));
        }
        if count >= MAX_RUNNING {
            return Err(Problem::new(ProblemCode::TooManyJobs, "too many jobs are running")
                .remedy("wait until one of them ends, or cancel one"));
        }
        if jobs.len() >= MAX_ENDED + MAX_RUNNING {
            let oldest = jobs.iter().position(|job| job.state != JobState::Running);
            oldest.and_then(|oldest| jobs.remove(oldest));
        }
        let (id, cancelled) = (uuid::Uuid::new_v4().to_string(), CancellationToken::new());
        jobs.push_back(Job {
            job: id.clone(),
            kind,
            tenant: tenant.to_owned(),
            state: JobState::Running,
            progress: None,
            scan_progress: progress.clone(),
            cancelled: cancelled.clone(),
            result: None,
            error: None,
        });
        Ok(StartedJob { id, cancelled })
    }

    /// Cancels a job that is running; `false` if it is unknown, expired or has ended.
    pub(super) fn cancel(&self, job: &str) -> bool {
        let jobs = self.lock();
        let running = jobs.iter().find(|known| known.job == job && known.state == JobState::Running);
        running.inspect(|job| job.cancelled.cancel()).is_some()
    }

    pub(super) fn finish(&self, job: &str, outcome: Result<Option<JobResult>, JobError>) {
        let mut jobs = self.lock();
        let Some(job) = jobs.iter_mut().find(|known| known.job == job) else { return };
        match outcome {
            Ok(result) => (job.state, job.progress, job.result) = (JobState::Done, Some(1.0), result),
            Err(error) => (job.state, job.error) = (JobState::Failed, Some(error)),
        }
    }

    pub(super) fn get(&self, job: &str) -> Option<Job> {
        self.lock().iter().find(|known| known.job == job).cloned()
    }

    /// The jobs of one tenant, or of all tenants; newest first.
    pub(super) fn list(&self, tenant: Option<&str>) -> Vec<Job> {
        let jobs = self.lock();
        jobs.iter().rev().filter(|job| tenant.is_none_or(|tenant| job.tenant == tenant)).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Job>> {
        // Code under the lock does not panic between related changes.
        lock(&self.0)
    }
}
