//! Starts, runs and reports the jobs of the HTTP API.

use super::answer::{Body, Empty, Path, Query, check_limit, default_limit};
use super::app::App;
use super::jobs::{Job, JobError, JobKind, JobResult, Jobs, StartedJob};
use super::problem::{Problem, ProblemCode};
#[cfg(feature = "openapi")]
use super::refusals::{BodyRefusals, JobRefusals};
use crate::config::{Config, Tenant};
use crate::model::{ParkCause, Reason, SourceTrouble, StatusFinding, shell_word};
use crate::operations::request::{RequestEnd, request};
use crate::operations::verify::{NoUsers, Verdict, Verifying, verify, why_without_users};
use crate::pg::connect_state;
use crate::snapshot::Differences;
use crate::state::{RequestKind, StateStore, TenantState};
use crate::status::process::ProcessStatus;
use crate::status::progress_handle::ProgressHandle;
use crate::sync::{Panicked, catch_panic};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Maximum number of ids in a result.
const MAX_IDS: usize = 100;
/// Time that a target has to catch up with the compared position.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);

/// A started job.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct JobStarted {
    /// Id of the job, for `/api/jobs/{job}`.
    job: String,
}

/// Options of a resync.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct ResyncRequest {
    /// Ignore `limits.max_deletes`, however many users the resync marks as deleted.
    #[serde(default)]
    allow_deletes: bool,
}

/// Options of a verification.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyRequest {
    /// Fix differences by resyncing the tenant. Only the rows that differ are written.
    #[serde(default)]
    repair: bool,
}

/// Take a new snapshot of the tenant while the others keep streaming. Only rows that differ are written.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        post,
        path = "/api/tenants/{tenant}/resync",
        tag = "jobs",
        params(("tenant" = String, Path, description = "Id of the tenant.")),
        request_body = ResyncRequest,
        responses((status = 202, description = "The job has started.", body = JobStarted), JobRefusals)
    )
)]
pub(super) async fn resync(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Body(options): Body<ResyncRequest>,
) -> Result<(StatusCode, Json<JobStarted>), Problem> {
    let tenant = app.tenant(&tenant)?;
    start(&app, JobKind::Resync, tenant, move |config, tenant, _| async move {
        request_resync(&config, &tenant, options.allow_deletes).await.map(|()| None)
    })
}

/// Compare the tenant's target with the source while replication continues.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        post,
        path = "/api/tenants/{tenant}/verify",
        tag = "jobs",
        params(("tenant" = String, Path, description = "Id of the tenant.")),
        request_body = VerifyRequest,
        responses((status = 202, description = "The job has started.", body = JobStarted), JobRefusals)
    )
)]
pub(super) async fn verify_tenant(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Body(options): Body<VerifyRequest>,
) -> Result<(StatusCode, Json<JobStarted>), Problem> {
    let tenant = app.tenant(&tenant)?;
    start(&app, JobKind::Verify, tenant, move |config, tenant, progress| async move {
        let found = compare(&config, &tenant, &progress).await?;
        if !options.repair || found.missing + found.extra + found.different == 0 {
            return Ok(Some(found));
        }
        progress.reset();
        request_resync(&config, &tenant, false).await?;
        compare(&config, &tenant, &progress).await.map(Some)
    })
}

/// Status of a job.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/api/jobs/{job}",
        tag = "jobs",
        params(("job" = String, Path, description = "Id of the job.")),
        responses(
            (status = 200, description = "The job.", body = Job),
            (status = 400, description = "Invalid path.", body = Problem),
            (status = 404, description = "Unknown or expired job.", body = Problem),
        )
    )
)]
pub(super) async fn job(
    State(jobs): State<Jobs>,
    State(status): State<Arc<ProcessStatus>>,
    Path(job): Path<String>,
) -> Result<Json<Job>, Problem> {
    let found = jobs.get(&job).ok_or_else(|| Problem::new(ProblemCode::NoSuchJob, "unknown or expired job"))?;
    Ok(Json(found.with_progress(&status)))
}

/// Cancel a running job: it ends as failed. A resync that the replicating process has begun continues.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        post,
        path = "/api/jobs/{job}/cancel",
        tag = "jobs",
        params(("job" = String, Path, description = "Id of the job.")),
        request_body = Empty,
        responses(
            (status = 202, description = "The job is being cancelled.", body = Empty),
            BodyRefusals,
            (status = 404, description = "Unknown job, or it has ended.", body = Problem),
        )
    )
)]
pub(super) async fn cancel(
    State(jobs): State<Jobs>,
    Path(job): Path<String>,
    Body(Empty {}): Body<Empty>,
) -> Result<(StatusCode, Json<Empty>), Problem> {
    if jobs.cancel(&job) {
        return Ok((StatusCode::ACCEPTED, Json(Empty {})));
    }
    Err(Problem::new(ProblemCode::NoSuchJob, "no such job is running"))
}

/// Filter of the list.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct JobListParams {
    /// Only jobs of this tenant.
    tenant: Option<String>,
    /// `next` of the previous page.
    cursor: Option<String>,
    /// Maximum number of jobs.
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 200, default = 50))]
    #[serde(default = "default_limit")]
    limit: usize,
}

/// A page of jobs, the newest first.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Jobs))]
pub(super) struct JobPage {
    jobs: Vec<Job>,
    /// Cursor of the next page; null on the last page.
    next: Option<String>,
    /// Number of jobs on all pages.
    total: usize,
}

/// List of jobs, newest first: all that are running, and the last hundred that have ended.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/api/jobs",
        tag = "jobs",
        params(JobListParams),
        responses(
            (status = 200, description = "A page of jobs.", body = JobPage),
            (status = 400, description = "Invalid parameter.", body = Problem),
        )
    )
)]
pub(super) async fn jobs(
    State(jobs): State<Jobs>,
    State(status): State<Arc<ProcessStatus>>,
    Query(params): Query<JobListParams>,
) -> Result<Json<JobPage>, Problem> {
    check_limit(params.limit, 200)?;
    let found = jobs.list(params.tenant.as_deref());
    let total = found.len();
    // An expired job was the oldest: no other one follows it.
    let mut rest = found.into_iter().skip_while(|job| params.cursor.as_ref().is_some_and(|cursor| job.id() != cursor));
    if params.cursor.is_some() {
        rest.next();
    }
    let page: Vec<Job> = rest.by_ref().take(params.limit).map(|job| job.with_progress(&status)).collect();
    let next = rest.next().and(page.last()).map(|last| last.id().to_owned());
    Ok(Json(JobPage { jobs: page, next, total }))
}

fn start<F>(
    app: &App,
    kind: JobKind,
    tenant: Arc<Tenant>,
    work: impl FnOnce(Config, Arc<Tenant>, ProgressHandle) -> F,
) -> Result<(StatusCode, Json<JobStarted>), Problem>
where
    F: Future<Output = Result<Option<JobResult>, JobError>> + Send + 'static,
{
    let progress = ProgressHandle::default();
    let StartedJob { id, cancelled } = app.jobs.start(kind, tenant.id.as_str(), &progress)?;
    let config = app.configs.borrow().clone();
    // A repair is two comparisons and a resync, each of which may read the whole source.
    let limit = config.limits.snapshot_age.saturating_mul(3);
    let (app, job, work) = (app.clone(), id.clone(), work(config, tenant, progress));
    tokio::spawn(async move {
        let outcome = tokio::select! {
            done = timeout(limit, catch_panic(work)) => match done {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(Panicked)) => Err(failed(ParkCause::Internal.code(), "internal error, see the log")),
                Err(_) => Err(failed("job_too_slow", "it took longer than three times limits.snapshot_age")),
            },
            () = cancelled.cancelled() => Err(failed("job_cancelled", "cancelled")),
        };
        app.jobs.finish(&job, outcome);
    });
    Ok((StatusCode::ACCEPTED, Json(JobStarted { job: id })))
}

fn failed(code: &'static str, detail: impl ToString) -> JobError {
    JobError { code, detail: detail.to_string(), remedy: None }
}

fn of_state(error: impl ToString) -> JobError {
    failed(SourceTrouble::State.code(), error)
}

fn of_verify(error: impl ToString) -> JobError {
    failed("verify_failed", error)
}

/// Requests a resync from the process that replicates, which may be another one, and waits for its end.
async fn request_resync(config: &Config, tenant: &Tenant, allow_deletes: bool) -> Result<(), JobError> {
    let (slot, id) = (&config.source.slot, &tenant.id);
    let client = connect_state(&config.state_url).await.map_err(of_state)?;
    let before = StateStore::read(&client, slot).await.map_err(of_state)?;
    let not_replicating = || JobError {
        remedy: Some("start one with `users-sync run`".to_owned()),
        ..failed(StatusFinding::NotRunning.code(), "no process is replicating")
    };
    if before.pauses.contains_key(id) {
        let remedy = Some(format!("users-sync resume {}", shell_word(id.as_str())));
        return Err(JobError { remedy, ..failed(StatusFinding::Paused.code(), "the tenant is paused") });
    }
    if !before.source.is_some_and(|source| source.is_held()) {
        return Err(not_replicating());
    }
    let outcome = request(&client, slot, &[id.as_str()], &RequestKind::Resync { allow_deletes, adopt: None })
        .await
        .map_err(of_state)?;
    if outcome == RequestEnd::Abandoned {
        return Err(not_replicating());
    }
    let after = StateStore::read(&client, slot).await.map_err(of_state)?;
    match after.tenants.get(id) {
        Some(row) if row.state == TenantState::Following => Ok(()),
        Some(row) => {
            let detail = row.reason.clone().unwrap_or_else(|| format!("the tenant is {}", row.state.as_str()));
            let code = row.reason_code.map_or(StatusFinding::NotRunning.code(), Reason::code);
            Err(JobError { remedy: row.remedy.clone(), ..failed(code, detail) })
        }
        None => Err(failed(StatusFinding::NotRunning.code(), "the replicating process has not recorded the tenant")),
    }
}

async fn compare(config: &Config, tenant: &Tenant, progress: &ProgressHandle) -> Result<JobResult, JobError> {
    let how = Verifying { examples: MAX_IDS, timeout: CATCH_UP_TIMEOUT, follows: true };
    let verdicts =
        Box::pin(verify(config, std::slice::from_ref(&tenant.id), how, progress)).await.map_err(of_verify)?;
    match verdicts.into_iter().next() {
        Some((_, Verdict::Compared(users, differences))) => {
            let Differences { missing, different, extra, rejected, examples, .. } = differences;
            if users + missing + different + extra + rejected == 0
                && let Some(NoUsers { why, remedy }) = why_without_users(config, std::slice::from_ref(&tenant.id))
                    .await
                    .map_err(of_verify)?
                    .remove(&tenant.id)
            {
                return Err(JobError { remedy: Some(remedy), ..failed(StatusFinding::WithoutUsers.code(), why) });
            }
            let ids = examples.into_iter().map(|user| user.id).collect();
            Ok(JobResult { missing, extra, different, rejected, ids })
        }
        Some((_, Verdict::Failed(why))) => Err(of_verify(why)),
        None => Err(failed(ParkCause::NotConfigured.code(), "the tenant was removed from the configuration")),
    }
}
