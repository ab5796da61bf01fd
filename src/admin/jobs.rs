//! What takes longer than an answer: resyncs and comparisons, one for each tenant at a time. The last of them are kept, so
//! that whoever asked can see what became of them; a restart forgets them.

use super::answer::{Body, Path, Problem, Query, What};
use super::app::App;
#[cfg(feature = "openapi")]
use super::openapi::NotBegun;
use crate::config::{Config, Tenant};
use crate::model::TenantId;
use crate::operations::resync_request::{Asked, ask_for_resync};
use crate::operations::verify::{Verdict, Verifying, verify};
use crate::pg::connect;
use crate::replicator::snapshotter::progress_bar::HowFar;
use crate::state::{StateStore, TenantState};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// So many are kept that are over.
const KEPT: usize = 100;
/// So many run at the same time: a comparison holds a snapshot of the source.
const TOGETHER: usize = 8;
/// So many ids are named of those that differ.
const IDS: usize = 100;
/// How long a target may take to get to where the source was read.
const CATCH_UP: Duration = Duration::from_secs(60);

/// The jobs, the oldest first.
#[derive(Default)]
pub(super) struct Jobs(Mutex<VecDeque<Job>>);

/// What was asked for, and what became of it.
#[derive(Clone, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Job {
    /// Its name.
    job: String,
    kind: Kind,
    /// The tenant's name.
    tenant: String,
    state: JobState,
    /// How much of the source has been read for it, from 0 to 1, where this process reads it.
    #[cfg_attr(feature = "openapi", schema(minimum = 0, maximum = 1))]
    progress: Option<f64>,
    #[serde(skip)]
    how_far: HowFar,
    /// What a comparison found; of a repair what is left.
    result: Option<Found>,
    /// Why it failed.
    error: Option<What>,
}

#[derive(Clone, Copy, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
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

/// How a target differs from the source.
#[derive(Clone, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Found {
    /// Users that the target lacks.
    missing: u64,
    /// Users that the source does not have.
    extra: u64,
    /// Users that are not the same.
    different: u64,
    /// Some of all of these.
    ids: Vec<String>,
}

/// A job that has begun.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Begun {
    /// Its name, for `/api/jobs/{job}`.
    job: String,
}

impl Job {
    /// How far it is. A resync has that of its tenant's snapshot, a comparison that of its own reading.
    fn with_progress(self, app: &App) -> Job {
        let progress = match (self.state, self.kind) {
            (JobState::Running, Kind::Resync) => app.live.joined_by(&TenantId::new(&self.tenant)),
            (JobState::Running, Kind::Verify) => self.how_far.share(),
            _ => self.progress,
        };
        Job { progress, ..self }
    }
}

impl Jobs {
    /// Adds one that runs, unless another one does for the tenant.
    fn begin(&self, kind: Kind, tenant: &str, how_far: &HowFar) -> Result<String, Problem> {
        let mut jobs = self.lock();
        let running = jobs.iter().filter(|job| job.state == JobState::Running);
        let (mut count, mut other) = (0, None);
        for job in running {
            count += 1;
            other = other.or((job.tenant == tenant).then(|| job.job.clone()));
        }
        if let Some(other) = other {
            let problem = Problem::new(StatusCode::CONFLICT, "a job runs for this tenant already");
            return Err(problem.remedy(format!("wait for /api/jobs/{other}")));
        }
        if count >= TOGETHER {
            return Err(Problem::unavailable("too many jobs run already").remedy("wait until one of them is over"));
        }
        if jobs.len() >= KEPT + TOGETHER {
            let oldest = jobs.iter().position(|job| job.state != JobState::Running);
            oldest.and_then(|oldest| jobs.remove(oldest));
        }
        let job = uuid::Uuid::new_v4().to_string();
        jobs.push_back(Job {
            job: job.clone(),
            kind,
            tenant: tenant.to_owned(),
            state: JobState::Running,
            progress: None,
            how_far: how_far.clone(),
            result: None,
            error: None,
        });
        Ok(job)
    }

    fn end(&self, job: &str, outcome: Result<Option<Found>, What>) {
        let mut jobs = self.lock();
        let Some(job) = jobs.iter_mut().find(|known| known.job == job) else { return };
        match outcome {
            Ok(result) => (job.state, job.progress, job.result) = (JobState::Done, Some(1.0), result),
            Err(error) => (job.state, job.error) = (JobState::Failed, Some(error)),
        }
    }

    fn get(&self, job: &str) -> Option<Job> {
        self.lock().iter().find(|known| known.job == job).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Job>> {
        // Nothing panics inside that could leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How to resync.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Resync {
    /// However many users that marks as deleted: `limits.max_deletes` does not apply.
    #[serde(default)]
    allow_deletes: bool,
}

/// How to compare.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Compare {
    /// Mend what differs: the tenant is resynced, which writes just that.
    #[serde(default)]
    repair: bool,
}

/// Takes a snapshot of the tenant anew, while everybody else follows. What differs is written, and nothing else.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        post,
        path = "/api/tenants/{tenant}/resync",
        tag = "jobs",
        params(("tenant" = String, Path, description = "Its name.")),
        request_body = Resync,
        responses((status = 202, description = "It has begun.", body = Begun), NotBegun)
    )
)]
pub(super) async fn resync(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Body(how): Body<Resync>,
) -> Result<(StatusCode, Json<Begun>), Problem> {
    let tenant = app.tenant(&tenant)?;
    start(&app, Kind::Resync, tenant, move |config, tenant, _| async move {
        ask(&config, &tenant, how.allow_deletes).await.map(|()| None)
    })
}

/// Compares the tenant's target with the source, beside everything else.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        post,
        path = "/api/tenants/{tenant}/verify",
        tag = "jobs",
        params(("tenant" = String, Path, description = "Its name.")),
        request_body = Compare,
        responses((status = 202, description = "It has begun.", body = Begun), NotBegun)
    )
)]
pub(super) async fn verify_(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Body(how): Body<Compare>,
) -> Result<(StatusCode, Json<Begun>), Problem> {
    let tenant = app.tenant(&tenant)?;
    start(&app, Kind::Verify, tenant, move |config, tenant, how_far| async move {
        let found = compare(&config, &tenant, &how_far).await?;
        if !how.repair || found.missing + found.extra + found.different == 0 {
            return Ok(Some(found));
        }
        how_far.reset();
        ask(&config, &tenant, false).await?;
        compare(&config, &tenant, &how_far).await.map(Some)
    })
}

/// A job.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/api/jobs/{job}",
        tag = "jobs",
        params(("job" = String, Path, description = "Its name.")),
        responses(
            (status = 200, description = "How it is.", body = Job),
            (status = 400, description = "The path cannot be.", body = Problem),
            (status = 404, description = "There is no such job, or not any more.", body = Problem),
        )
    )
)]
pub(super) async fn job(State(app): State<App>, Path(job): Path<String>) -> Result<Json<Job>, Problem> {
    let found = app.jobs.get(&job).ok_or_else(|| Problem::absent("there is no such job, or not any more"))?;
    Ok(Json(found.with_progress(&app)))
}

/// Which jobs.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Only those of this tenant.
    tenant: Option<String>,
}

/// The jobs that are remembered, the newest first: all that run, and the last hundred that are over.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/api/jobs",
        tag = "jobs",
        params(Which),
        responses(
            (status = 200, description = "The jobs.", body = Vec<Job>),
            (status = 400, description = "A parameter cannot be.", body = Problem),
        )
    )
)]
pub(super) async fn jobs(State(app): State<App>, Query(which): Query<Which>) -> Json<Vec<Job>> {
    let mut found: Vec<Job> = app.jobs.lock().iter().rev().cloned().collect();
    found.retain(|job| which.tenant.as_ref().is_none_or(|tenant| job.tenant == *tenant));
    Json(found.into_iter().map(|job| job.with_progress(&app)).collect())
}

fn start<F>(
    app: &App,
    kind: Kind,
    tenant: Tenant,
    work: impl FnOnce(Config, Tenant, HowFar) -> F,
) -> Result<(StatusCode, Json<Begun>), Problem>
where
    F: Future<Output = Result<Option<Found>, What>> + Send + 'static,
{
    let how_far = HowFar::default();
    let job = app.jobs.begin(kind, tenant.id.as_str(), &how_far)?;
    let config = app.configs.borrow().clone();
    let (app, name, work) = (app.clone(), job.clone(), work(config, tenant, how_far));
    tokio::spawn(async move {
        // A job that panics is over, too.
        let done = tokio::spawn(work).await;
        app.jobs.end(&name, done.unwrap_or_else(|_| Err(failed("it was broken off by a defect, see the log"))));
    });
    Ok((StatusCode::ACCEPTED, Json(Begun { job })))
}

fn failed(what: impl ToString) -> What {
    What { what: what.to_string(), remedy: None }
}

/// Asks whoever replicates, in this process or another one.
async fn ask(config: &Config, tenant: &Tenant, allow_deletes: bool) -> Result<(), What> {
    let (slot, id) = (&config.source.slot, &tenant.id);
    let client = connect(&config.state_url).await.map_err(failed)?;
    let before = StateStore::read(&client, slot).await.map_err(failed)?;
    let nobody = || What {
        what: "no process replicates".to_owned(),
        remedy: Some("start one with `users-sync run`".to_owned()),
    };
    if !before.source.is_some_and(|source| source.is_held()) {
        return Err(nobody());
    }
    if ask_for_resync(&client, slot, &[id.as_str()], allow_deletes).await.map_err(failed)? == Asked::Abandoned {
        return Err(nobody());
    }
    let after = StateStore::read(&client, slot).await.map_err(failed)?;
    match after.tenants.get(id) {
        Some(row) if row.state == TenantState::Following => Ok(()),
        Some(row) => {
            let what = row.reason.clone().unwrap_or_else(|| format!("it is {}", row.state.as_str()));
            Err(What { what, remedy: row.remedy.clone() })
        }
        None => Err(failed("it was not seen by the process that replicates")),
    }
}

async fn compare(config: &Config, tenant: &Tenant, how_far: &HowFar) -> Result<Found, What> {
    let how = Verifying { examples: IDS, timeout: CATCH_UP };
    let verdicts = Box::pin(verify(config, std::slice::from_ref(&tenant.id), how, how_far)).await.map_err(failed)?;
    match verdicts.into_iter().next() {
        Some((_, Verdict::Compared(_, differences))) => {
            let [missing, different, extra] = differences.counts;
            Ok(Found { missing, extra, different, ids: differences.examples.into_iter().map(|(_, id)| id).collect() })
        }
        Some((_, Verdict::Failed(why))) => Err(failed(why)),
        None => Err(failed("the configuration does not have it any more")),
    }
}
