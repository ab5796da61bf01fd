//! Predicts what a start would do, without changing anything.

use crate::apply::{Session, TargetAssessment, assess_target, observe};
use crate::capture::slot::{identify_system, read_slot};
use crate::capture::{ReplicationConnection, publication};
use crate::config::{Config, Tenant};
use crate::model::{Epoch, Generation, Lsn, ReceivedHistory, TenantId};
use crate::pg::{connect, connect_state, connect_target};
use crate::replicator::error::ServiceError;
use crate::replicator::failure_policy;
use crate::replicator::failure_policy::FailureAction;
use crate::replicator::source::history::{History, HistoryFacts, decide_history};
use crate::replicator::source::mapping::{compile_current, fingerprint, resolve_layout};
use crate::replicator::source::shape::versioned;
use crate::replicator::tenant::target::recorded_target;
use crate::snapshot::source_session;
use crate::state::{Snapshot, StateStore, TenantState};
use futures_util::StreamExt;
use std::time::Duration;
use tokio::time::timeout;
use tracing::{Instrument, info_span};

/// Targets that are assessed at the same time.
const MAX_CONCURRENT_TARGETS: usize = 64;
/// Time limit for assessing one target.
const TARGET_TIMEOUT: Duration = Duration::from_secs(15);

/// What a start would do with a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TenantForecast {
    /// The tenant continues from this position.
    Follow(Lsn),
    /// The tenant takes a snapshot, for this reason.
    Resync(String),
    Park {
        reason: String,
        remedy: String,
    },
    /// The target cannot be assessed now, for this reason.
    Unknown(String),
}

/// What a start would do.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The slot and its history, as a sentence.
    pub source: String,
    /// Every tenant, in the order of the configuration.
    pub tenants: Vec<(TenantId, TenantForecast)>,
}

/// Reads source, state and every target.
pub(crate) async fn plan(config: &Config) -> Result<Plan, ServiceError> {
    let client = connect(&config.source.url).await?;
    source_session(&client).await?;
    let config = &resolve_layout(&client, config).await?;
    let state = connect_state(&config.state_url).await?;
    let known = StateStore::read(&state, &config.source.slot).await?;
    let mapping = fingerprint(&config.users, &compile_current(&client, &config.users).await?);
    let mapping = versioned(&mapping, known.source.as_ref().map_or(0, |source| source.shape_version));
    let version = publication::read_version(&client, &config.source.publication, &config.users.tables()).await?;
    let slot = read_slot(&client, &config.source.slot).await?;
    let mut connection = ReplicationConnection::connect(&config.source.url).await?;
    let system = identify_system(&mut connection).await?;
    let known_here = known.source.as_ref().filter(|source| source.is_of(&system.system_identifier));
    let seen = known_here.map_or("", |source| &source.publication);
    let published = version.as_ref().is_some_and(|version| !version.was_recreated_since(seen));
    let usable = slot.filter(|slot| !slot.invalid && published);
    let found = HistoryFacts {
        system_identifier: &system.system_identifier,
        timeline: system.timeline,
        slot_created: usable.is_none(),
        confirmed: usable.as_ref().and_then(|slot| slot.confirmed_flush).unwrap_or(Lsn::ZERO),
        flushed: system.flushed,
        publication: version.as_ref().map(|version| &*version.rows).unwrap_or_default(),
        remembered: ReceivedHistory::default(),
    };
    let history = known.source.as_ref().map(|source| decide_history(source, &found));
    let (generation, source) = match history {
        Some(History::Same(generation)) => {
            let holder = match usable.and_then(|slot| slot.active_pid) {
                Some(pid) => format!(", in use by process {pid} of the server: a start would wait as a standby"),
                None => String::new(),
            };
            (Some(generation), format!("slot {} continues from {}{holder}", config.source.slot, found.confirmed))
        }
        Some(History::New(_, reason)) => (None, format!("a new generation would begin: {reason}")),
        None => (None, "nothing was ever replicated with this slot".to_owned()),
    };
    let forecasts = futures_util::stream::iter(&config.tenants)
        .map(|tenant| async {
            let span = info_span!("tenant", id = %tenant.id);
            let mapping = config.users.redactions.tenant_fingerprint(&mapping, &tenant.key);
            let forecast = forecast(tenant, &known, generation, &mapping).instrument(span);
            let forecast = match timeout(TARGET_TIMEOUT, forecast).await {
                Ok(forecast) => forecast,
                Err(_) => TenantForecast::Unknown("its target does not answer".to_owned()),
            };
            (tenant.id.clone(), forecast)
        })
        .buffered(MAX_CONCURRENT_TARGETS);
    Ok(Plan { source, tenants: forecasts.collect().await })
}

async fn forecast(tenant: &Tenant, known: &Snapshot, generation: Option<Generation>, mapping: &str) -> TenantForecast {
    let of_failure = |action: FailureAction| match action {
        FailureAction::Retry { reason, .. } => TenantForecast::Unknown(reason),
        FailureAction::Park { reason, remedy, .. } => TenantForecast::Park { reason, remedy },
        FailureAction::Refused(refusal) => TenantForecast::Unknown(format!("SQLSTATE {}", refusal.sqlstate)),
    };
    let client = match connect_target(&tenant.target).await {
        Ok(client) => client,
        Err(error) => {
            let followed = known.tenants.get(&tenant.id).is_some_and(|row| row.state == TenantState::Following);
            return of_failure(failure_policy::of_first_connect(&error, followed));
        }
    };
    let observed = match observe(&client).await {
        Ok(observed) => observed,
        Err(error) => return of_failure(failure_policy::of_target(&error)),
    };
    let recorded = known.tenants.get(&tenant.id).map(recorded_target);
    // A start would have a higher epoch than every process before.
    let epoch = Epoch(known.source.as_ref().map_or(0, |source| source.epoch.0) + 1);
    let generation = generation.unwrap_or(Generation(i64::MAX));
    let epochs = &known.epochs;
    let session = Session {
        generation,
        epoch,
        mapping,
        epochs,
        may_have_fenced: false,
        received: Lsn(u64::MAX),
        key: known.key.as_ref(),
    };
    match assess_target(&tenant.id, recorded.as_ref(), &observed, &session) {
        TargetAssessment::Resume(position) => TenantForecast::Follow(position),
        TargetAssessment::Snapshot(reason) => TenantForecast::Resync(reason.to_string()),
        TargetAssessment::Park(reason) => {
            TenantForecast::Park { reason: reason.to_string(), remedy: reason.remedy(&tenant.id) }
        }
        TargetAssessment::Superseded(epoch) => {
            TenantForecast::Unknown(format!("a later process wrote it (epoch {epoch})"))
        }
        TargetAssessment::SourceRewound(_) => {
            TenantForecast::Resync("the source went back to an older point".to_owned())
        }
    }
}
