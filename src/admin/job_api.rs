//! Starts, runs and reports the jobs of the HTTP API.

use super::answer::{Body, ErrorBody, Path, Problem, Query};
use super::app::App;
use super::jobs::{Found, Job, Jobs, Kind};
#[cfg(feature = "openapi")]
use super::refusals::NotBegun;
use crate::config::{Config, Tenant};
use crate::operations::resync_request::{Asked, ask_for_resync};
use crate::operations::verify::{Verdict, Verifying, verify};
use crate::pg::connect;
use crate::replicator::snapshotter::progress_bar::HowFar;
use crate::state::{StateStore, TenantState};
use crate::status::live::ProcessStatus;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// So many ids are named of those that differ.
const IDS: usize = 100;
/// How long a target may take to get to where the source was read.
const CATCH_UP: Duration = Duration::from_secs(60);

/// A started job.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Begun {
    /// Id of the job, for `/api/jobs/{job}`.
    job: String,
}

/// Options of a resync.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Resync {
    /// Ignore `limits.max_deletes`, however many users the resync marks as deleted.
    #[serde(default)]
    allow_deletes: bool,
}

/// Options of a verification.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Compare {
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
        request_body = Resync,
        responses((status = 202, description = "The job has started.", body = Begun), NotBegun)
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

/// Compare the tenant's target with the source while replication continues.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        post,
        path = "/api/tenants/{tenant}/verify",
        tag = "jobs",
        params(("tenant" = String, Path, description = "Id of the tenant.")),
        request_body = Compare,
        responses((status = 202, description = "The job has started.", body = Begun), NotBegun)
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
    State(live): State<Arc<ProcessStatus>>,
    Path(job): Path<String>,
) -> Result<Json<Job>, Problem> {
    let found = jobs.get(&job).ok_or_else(|| Problem::absent("unknown or expired job"))?;
    Ok(Json(found.with_progress(&live)))
}

/// Filter of the list.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct JobListParams {
    /// Only jobs of this tenant.
    tenant: Option<String>,
}

/// Jobs, newest first: all that are running, and the last hundred that have ended.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/api/jobs",
        tag = "jobs",
        params(JobListParams),
        responses(
            (status = 200, description = "The jobs.", body = Vec<Job>),
            (status = 400, description = "Invalid parameter.", body = Problem),
        )
    )
)]
pub(super) async fn jobs(
    State(jobs): State<Jobs>,
    State(live): State<Arc<ProcessStatus>>,
    Query(params): Query<JobListParams>,
) -> Json<Vec<Job>> {
    let found = jobs.list(params.tenant.as_deref());
    Json(found.into_iter().map(|job| job.with_progress(&live)).collect())
}

fn start<F>(
    app: &App,
    kind: Kind,
    tenant: Tenant,
    work: impl FnOnce(Config, Tenant, HowFar) -> F,
) -> Result<(StatusCode, Json<Begun>), Problem>
where
    F: Future<Output = Result<Option<Found>, ErrorBody>> + Send + 'static,
{
    let how_far = HowFar::default();
    let job = app.jobs.begin(kind, tenant.id.as_str(), &how_far)?;
    let config = app.configs.borrow().clone();
    let (app, name, work) = (app.clone(), job.clone(), work(config, tenant, how_far));
    tokio::spawn(async move {
        // A job that panics is over, too.
        let done = tokio::spawn(work).await;
        app.jobs.end(&name, done.unwrap_or_else(|_| Err(failed("internal error, see the log"))));
    });
    Ok((StatusCode::ACCEPTED, Json(Begun { job })))
}

fn failed(what: impl ToString) -> ErrorBody {
    ErrorBody { what: what.to_string(), remedy: None }
}

/// Asks whoever replicates, in this process or another one.
async fn ask(config: &Config, tenant: &Tenant, allow_deletes: bool) -> Result<(), ErrorBody> {
    let (slot, id) = (&config.source.slot, &tenant.id);
    let client = connect(&config.state_url).await.map_err(failed)?;
    let before = StateStore::read(&client, slot).await.map_err(failed)?;
    let nobody = || ErrorBody {
        what: "no process is replicating".to_owned(),
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
            let what = row.reason.clone().unwrap_or_else(|| format!("the tenant is {}", row.state.as_str()));
            Err(ErrorBody { what, remedy: row.remedy.clone() })
        }
        None => Err(failed("the replicating process has not recorded the tenant")),
    }
}

async fn compare(config: &Config, tenant: &Tenant, how_far: &HowFar) -> Result<Found, ErrorBody> {
    let how = Verifying { examples: IDS, timeout: CATCH_UP };
    let verdicts = Box::pin(verify(config, std::slice::from_ref(&tenant.id), how, how_far)).await.map_err(failed)?;
    match verdicts.into_iter().next() {
        Some((_, Verdict::Compared(_, differences))) => {
            let [missing, different, extra] = differences.counts;
            Ok(Found { missing, extra, different, ids: differences.examples.into_iter().map(|(_, id)| id).collect() })
        }
        Some((_, Verdict::Failed(why))) => Err(failed(why)),
        None => Err(failed("the tenant was removed from the configuration")),
    }
}
