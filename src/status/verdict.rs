//! The verdict on an installation: whether it replicates, and what needs attention. One pure function decides it; the
//! exit code of `status`, the API, the console, the metrics, the readiness check and the log all say what it says.

use crate::capture::SlotState;
use crate::model::{ParkCause, Reason, RetryCause, SlotLoss, SourceTrouble, StatusFinding, TopicTrouble, shell_word};
use crate::state::TenantState;
use crate::status::report::{PauseReport, Report, TenantReport, TroubleReport, WithoutUsers};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

/// How well an installation replicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Everything replicates.
    Ok,
    /// Something needs attention; the rest replicates.
    Degraded,
    /// Nothing replicates.
    Failed,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Ok => "ok",
            Level::Degraded => "degraded",
            Level::Failed => "failed",
        })
    }
}

/// The verdict and its reasons, the most severe first.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Verdict {
    /// The most severe level of a reason; `ok` without one.
    pub level: Level,
    /// What needs attention.
    pub reasons: Vec<VerdictReason>,
    /// Number of reasons. The list of the API holds only the first ones.
    pub total: usize,
}

impl Verdict {
    /// The codes of its reasons.
    pub(crate) fn codes(&self) -> BTreeSet<&'static str> {
        self.reasons.iter().map(|reason| reason.code).collect()
    }

    /// The verdict with at most `limit` reasons.
    pub(crate) fn with_first(mut self, limit: usize) -> Verdict {
        self.reasons.truncate(limit);
        self
    }
}

/// A reason why an installation is not `ok`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VerdictReason {
    /// How severe it is.
    pub level: Level,
    /// The stable code, such as `slot_gone` or `login`.
    pub code: &'static str,
    /// What is wrong.
    pub text: String,
    /// How to fix it.
    pub remedy: Option<String>,
    /// The tenant; null if it concerns all of them.
    pub tenant: Option<String>,
    /// Seconds since it began, where that is known.
    pub since_seconds: Option<f64>,
}

impl VerdictReason {
    fn of(level: Level, finding: StatusFinding) -> VerdictReason {
        VerdictReason { level, ..VerdictReason::degraded(finding.code(), finding.text().to_owned()) }
    }

    fn of_trouble(level: Level, trouble: &TroubleReport) -> VerdictReason {
        VerdictReason {
            level,
            since_seconds: Some(trouble.since_seconds),
            remedy: remedy_of_trouble(trouble.code).map(str::to_owned),
            ..VerdictReason::degraded(trouble.code, trouble.text.clone())
        }
    }

    fn degraded(code: &'static str, text: String) -> VerdictReason {
        VerdictReason { level: Level::Degraded, code, text, remedy: None, tenant: None, since_seconds: None }
    }

    fn failed(code: &'static str, text: String) -> VerdictReason {
        VerdictReason { level: Level::Failed, ..VerdictReason::degraded(code, text) }
    }
}

/// Every code that a reason of a verdict can have.
pub(crate) fn all_codes() -> impl Iterator<Item = &'static str> {
    let findings = StatusFinding::ALL.iter().map(|finding| finding.code());
    let troubles = SourceTrouble::ALL.iter().map(|trouble| trouble.code());
    let slots = [SlotLoss::Gone, SlotLoss::Invalidated].into_iter().map(SlotLoss::code);
    let parks = ParkCause::ALL.iter().map(|cause| cause.code());
    let retries = RetryCause::ALL.iter().map(|cause| cause.code());
    let topics = TopicTrouble::ALL.iter().map(|trouble| trouble.code());
    findings.chain(troubles).chain(slots).chain(parks).chain(retries).chain(topics)
}

/// The verdict on what is known.
pub fn judge(report: &Report) -> Verdict {
    let mut tenants = JudgedTenants::default();
    report.tenants.iter().for_each(|tenant| tenants.add(tenant, report.is_held));
    tenants.judge(report)
}

/// What the verdict needs to know of the tenants, collected one by one.
#[derive(Default)]
pub(crate) struct JudgedTenants {
    reasons: Vec<VerdictReason>,
    count: usize,
    parked: usize,
    joining: usize,
    following: usize,
}

impl JudgedTenants {
    /// `is_held` as in the [`Report`].
    pub(crate) fn add(&mut self, tenant: &TenantReport, is_held: bool) {
        self.reasons.extend(of_tenant(tenant, is_held));
        self.count += 1;
        self.parked += usize::from(tenant.state == TenantState::Parked.as_str());
        self.joining += usize::from(tenant.state == TenantState::Joining.as_str());
        self.following += usize::from(tenant.state == TenantState::Following.as_str());
    }

    /// The verdict on these tenants and the rest of the report. Ignores `report.tenants`.
    pub(crate) fn judge(self, report: &Report) -> Verdict {
        let JudgedTenants { reasons: of_tenants, count, parked, joining, following } = self;
        let mut reasons: Vec<VerdictReason> = of_process(report).into_iter().chain(of_source(report)).collect();
        reasons.extend(of_findings(report));
        reasons.extend(of_tenants);
        if report.tee.is_none() && count > 0 && parked == count {
            reasons.push(VerdictReason::of(Level::Failed, StatusFinding::NothingReplicates));
        }
        if report.is_held && joining > 0 && following == 0 {
            reasons.push(VerdictReason::of(Level::Degraded, StatusFinding::NoneFollows));
        }
        reasons.extend(of_tee(report, count > 0));
        // Stable: reasons of one level stay in this order.
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.level));
        let level = reasons.first().map_or(Level::Ok, |first| first.level);
        let total = reasons.len();
        Verdict { level, reasons, total }
    }
}

/// What follows a lost slot.
const NEW_SLOT: &str =
    "start users-sync run: it creates a new slot and resyncs every tenant, unless on_slot_loss is stop";

/// What helps users that the Kafka output leaves out.
const LEFT_OUT_REMEDY: &str = "in the state, users_sync.tee_rejected has users whose message is too large: raise max.message.bytes of the \
                               topic; users_sync.tee_unmappable has those whose row cannot be mapped: correct users: or the row";

/// How to fix a session that cannot begin; `None` where its error has the remedy, or where it is tried again.
pub(crate) fn remedy_of_trouble(code: &str) -> Option<&'static str> {
    Some(match SourceTrouble::parse(code)? {
        SourceTrouble::Unreachable => "start the source's server, or correct source.url; it reconnects on its own",
        SourceTrouble::Login | SourceTrouble::Rights | SourceTrouble::QueryFailed | SourceTrouble::Mapping => {
            "run users-sync check: it names what is missing, with the statement that adds it"
        }
        SourceTrouble::ReplicaIdentity => "run users-sync check: it prints the statements that complete the identity",
        SourceTrouble::StoreUpgraded => "run users-sync setup, then restart users-sync run",
        SourceTrouble::State => "start the server of state.url, or correct it; it reconnects on its own",
        SourceTrouble::NoWorker => "start users-sync apply, or read the log of its processes",
        SourceTrouble::KafkaUnread => "start the brokers, or correct kafka; it reconnects on its own",
        SourceTrouble::TenantsUnread => {
            "start the server of tenants.from.url, or correct tenants.from: the role needs SELECT on the tables of the query, and \
             each table its schema"
        }
        SourceTrouble::TenantUnusable => "correct the rows in the table of tenants: users-sync check names them",
        SourceTrouble::ConnectionLost => {
            "it reconnects on its own; if it happens again and again, read the log of the source's server: a restart, \
             wal_sender_timeout, or a firewall that ends idle connections"
        }
        SourceTrouble::Standby
        | SourceTrouble::Unready
        | SourceTrouble::PublicationMissing
        | SourceTrouble::SlotForeign
        | SourceTrouble::SlotLost
        | SourceTrouble::Protocol
        | SourceTrouble::Superseded
        | SourceTrouble::StartsOver => return None,
    })
}

/// What to do about a target that is tried again; `None` where nothing but waiting helps.
fn remedy_of_retry(cause: RetryCause) -> Option<&'static str> {
    Some(match cause {
        RetryCause::Unreachable => {
            "start the target's server, or correct host and port of the target's URL; it is tried again on its own"
        }
        RetryCause::NoResources => {
            "free disk space, memory or connections of the target's server, as the error says; it is tried again on its own"
        }
        RetryCause::LoginRefused => {
            "correct the role or password in the target's URL, or pg_hba.conf at the target; it is tried again on its own"
        }
        RetryCause::NoPassword => "correct passfile or password_command of the target; it is tried again on its own",
        RetryCause::NoAnswer | RetryCause::TablesLocked => {
            "in the target, SELECT pid, query FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0; lists the \
             sessions that wait for a lock"
        }
        RetryCause::TargetError
        | RetryCause::TooSlow
        | RetryCause::CheckpointMoved
        | RetryCause::RowRefused
        | RetryCause::SnapshotFailed
        | RetryCause::ScanAborted
        | RetryCause::SpoolFull
        | RetryCause::SourceReadFailed => return None,
    })
}

/// Whether a process replicates. The error of its last session says more than that it does not.
fn of_process(report: &Report) -> Option<VerdictReason> {
    if let Some(trouble) = &report.trouble {
        return Some(VerdictReason::of_trouble(Level::Failed, trouble));
    }
    if report.is_held {
        return None;
    }
    if !report.waiting.is_empty() {
        let text = format!("{}: {}", StatusFinding::SlotWaits, report.waiting.join("; "));
        return Some(VerdictReason::failed(StatusFinding::SlotWaits.code(), text));
    }
    if !report.idle_processes.is_empty() {
        let text = format!("{}: {}", StatusFinding::Beginning, report.idle_processes.join(", "));
        return Some(VerdictReason::degraded(StatusFinding::Beginning.code(), text));
    }
    Some(VerdictReason {
        remedy: Some("start users-sync run, or read its log if it is running".to_owned()),
        since_seconds: report.unheld_seconds,
        ..VerdictReason::of(Level::Failed, StatusFinding::NotRunning)
    })
}

/// What the source's server says of the slot.
fn of_source(report: &Report) -> Option<VerdictReason> {
    if report.source_position.is_none() {
        return Some(VerdictReason::of(Level::Degraded, StatusFinding::SourceUnread));
    }
    let lost = |loss: SlotLoss| VerdictReason {
        remedy: Some(NEW_SLOT.to_owned()),
        ..VerdictReason::failed(loss.code(), format!("slot {} {loss}", report.slot))
    };
    match report.slot_state {
        // Before the first session there is none, and while it is created it is not listed.
        None if report.is_held => Some(lost(SlotLoss::Gone)),
        None if report.generation > 0 && report.waiting.is_empty() => Some(lost(SlotLoss::Gone)),
        Some(SlotState::Lost) => Some(lost(SlotLoss::Invalidated)),
        // The error of the session says more.
        Some(SlotState::Inactive) if report.is_held && report.trouble.is_none() => {
            Some(VerdictReason::of(Level::Failed, StatusFinding::SlotIdle))
        }
        None | Some(SlotState::Active | SlotState::Inactive) => None,
    }
}

/// What the session that works has found at the source.
fn of_findings(report: &Report) -> impl Iterator<Item = VerdictReason> {
    report.findings.iter().map(|finding| VerdictReason::of_trouble(Level::Degraded, finding))
}

/// What the running process alone can know: what it has found at the source, and what is wrong with targets and the Kafka
/// output, apart from what an operator asked for and what has yet to begin.
pub(crate) fn of_process_alone(report: &Report) -> Vec<VerdictReason> {
    let is_fault = |reason: &VerdictReason| reason.code != StatusFinding::Paused.code();
    let of_tenants = report.tenants.iter().flat_map(|tenant| of_tenant(tenant, false));
    let has_tenants = !report.tenants.is_empty();
    of_findings(report).chain(of_tenants).chain(of_tee(report, has_tenants)).filter(is_fault).collect()
}

fn of_tenant(tenant: &TenantReport, is_held: bool) -> Vec<VerdictReason> {
    let of = |reason: VerdictReason| VerdictReason { tenant: Some(tenant.tenant.clone()), ..reason };
    let mut reasons = Vec::new();
    // A tenant that joins again shows why its last attempt failed.
    let has_failed = matches!(tenant.reason_code.and_then(Reason::parse), Some(Reason::Retry(_) | Reason::Park(_)));
    if has_failed || tenant.state == "parked" {
        // Parked by an older version, which wrote no code, or by a newer one with a code of its own.
        let code = tenant.reason_code.unwrap_or(ParkCause::Other.code());
        reasons.push(of(VerdictReason {
            remedy: tenant.remedy.clone().or_else(|| remedy_of_retry(RetryCause::parse(code)?).map(str::to_owned)),
            since_seconds: tenant.error_since_seconds,
            ..VerdictReason::degraded(code, tenant.last_error.clone().unwrap_or_else(|| tenant.state.to_owned()))
        }));
    }
    if tenant.state == "unknown" && is_held {
        reasons.push(of(VerdictReason::of(Level::Degraded, StatusFinding::NotStarted)));
    }
    reasons.extend(tenant.paused.as_ref().map(|pause| of(of_pause(&tenant.tenant, pause))));
    if let Some(WithoutUsers { text, remedy }) = &tenant.without_users {
        reasons.push(of(VerdictReason {
            remedy: Some(remedy.clone()),
            ..VerdictReason::degraded(StatusFinding::WithoutUsers.code(), text.clone())
        }));
    }
    if tenant.rejected > 0 {
        let users = if tenant.rejected == 1 { "user" } else { "users" };
        reasons.push(of(VerdictReason {
            remedy: Some(format!("users-sync rejected {}", shell_word(&tenant.tenant))),
            ..VerdictReason::degraded(
                StatusFinding::Rejects.code(),
                format!("its target rejects {} {users}", tenant.rejected),
            )
        }));
    }
    reasons
}

/// A pause, with what it holds back at the source.
fn of_pause(tenant: &str, pause: &PauseReport) -> VerdictReason {
    let PauseReport { reason, by, since_seconds, wal_held_bytes, wal_limit_bytes } = pause;
    let held = wal_held_bytes.map_or_else(String::new, |held| {
        format!("; it holds back {held} bytes of the source's WAL, at most {wal_limit_bytes} (limits.source_wal)")
    });
    VerdictReason {
        remedy: Some(format!("users-sync resume {}", shell_word(tenant))),
        since_seconds: Some(*since_seconds),
        ..VerdictReason::degraded(
            StatusFinding::Paused.code(),
            format!("{} ({by}): {reason}{held}", StatusFinding::Paused),
        )
    }
}

fn of_tee(report: &Report, has_tenants: bool) -> Vec<VerdictReason> {
    let Some(tee) = &report.tee else { return Vec::new() };
    let mut reasons = Vec::new();
    if let Some(code) = tee.reason_code {
        let text = match &tee.last_error {
            Some(error) => format!("{}: {error}", StatusFinding::Kafka),
            None => StatusFinding::Kafka.to_string(),
        };
        reasons.push(VerdictReason {
            // Without tenants the Kafka output is all that this installation does.
            level: if has_tenants { Level::Degraded } else { Level::Failed },
            remedy: tee.remedy.clone(),
            since_seconds: Some(tee.since_seconds),
            ..VerdictReason::degraded(code, text)
        });
    }
    if tee.rejected > 0 {
        let users = if tee.rejected == 1 { "user" } else { "users" };
        reasons.push(VerdictReason {
            remedy: Some(LEFT_OUT_REMEDY.to_owned()),
            ..VerdictReason::degraded(
                StatusFinding::LeftOut.code(),
                format!("the Kafka output leaves out {} {users}", tee.rejected),
            )
        });
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Tenant;
    use crate::model::TenantId;
    use crate::pg::PgUrl;
    use crate::status::report::TroubleReport;

    fn tenant(name: &str, state: &'static str) -> TenantReport {
        let url = PgUrl::parse("postgres://u@h/d").unwrap();
        let id = TenantId::new(name);
        TenantReport { state, ..TenantReport::unknown(&Tenant::new(id, url)) }
    }

    fn report(tenants: Vec<TenantReport>) -> Report {
        Report { tenants, ..Report::sample() }
    }

    fn check(report: &Report, level: Level, codes: &[&str]) {
        let verdict = judge(report);
        let found: Vec<&str> = verdict.reasons.iter().map(|reason| reason.code).collect();
        assert_eq!((verdict.level, &*found), (level, codes), "{verdict:?}");
    }

    #[test]
    fn a_process_that_replicates_to_every_tenant_is_ok() {
        check(&report(vec![tenant("a", "following"), tenant("b", "joining")]), Level::Ok, &[]);
        check(&report(Vec::new()), Level::Ok, &[]);
    }

    #[test]
    fn the_error_of_the_last_session_comes_before_that_no_process_replicates() {
        let dead = Report { is_held: false, ..report(vec![tenant("a", "following")]) };
        check(&dead, Level::Failed, &["not_running"]);
        let beginning = Report { idle_processes: vec!["process 7 on h".into()], ..dead.clone() };
        check(&beginning, Level::Degraded, &["beginning"]);
        let code = SourceTrouble::Unreachable.code();
        let trouble = Some(TroubleReport { code, text: "no route".into(), since_seconds: 3.0 });
        check(&Report { trouble, source_position: None, ..dead }, Level::Failed, &[code, "source_not_read"]);
    }

    #[test]
    fn a_slot_that_is_gone_lost_or_idle_is_reported() {
        let of = |slot_state| Report { slot_state, ..report(vec![tenant("a", "following")]) };
        check(&of(None), Level::Failed, &["slot_gone"]);
        check(&of(Some(SlotState::Lost)), Level::Failed, &["slot_invalidated"]);
        check(&of(Some(SlotState::Inactive)), Level::Failed, &["slot_inactive"]);
        // It is being created.
        let waiting = Report { is_held: false, waiting: vec!["pid 7".into()], ..of(None) };
        check(&waiting, Level::Failed, &["slot_waits"]);
    }

    #[test]
    fn each_failing_tenant_is_a_reason_and_all_of_them_parked_is_a_failure() {
        let parked = TenantReport { reason_code: Some("login"), ..tenant("a", "parked") };
        check(&report(vec![parked.clone(), tenant("b", "following")]), Level::Degraded, &["login"]);
        check(&report(vec![parked]), Level::Failed, &["nothing_replicates", "login"]);
        let retried = RetryCause::Unreachable.code();
        let failing = TenantReport { reason_code: Some(retried), ..tenant("a", "following") };
        check(&report(vec![failing]), Level::Degraded, &[retried]);
        let again = TenantReport { reason_code: Some("rights"), ..tenant("a", "joining") };
        check(&report(vec![again]), Level::Degraded, &["rights", "all_joining"]);
        let joining = TenantReport { reason_code: Some("new_target"), ..tenant("a", "joining") };
        let pause = PauseReport {
            reason: "maintenance".into(),
            by: "ann on h".into(),
            since_seconds: 60.0,
            wal_held_bytes: Some(5),
            wal_limit_bytes: 100,
        };
        let paused = report(vec![TenantReport { paused: Some(pause), ..tenant("a", "paused") }]);
        check(&paused, Level::Degraded, &["tenant_paused"]);
        let reason = &judge(&paused).reasons[0];
        assert_eq!(
            (reason.text.as_str(), reason.remedy.as_deref(), reason.since_seconds),
            (
                "it is paused (ann on h): maintenance; it holds back 5 bytes of the source's WAL, at most 100 (limits.source_wal)",
                Some("users-sync resume a"),
                Some(60.0)
            )
        );
        check(&report(vec![joining.clone()]), Level::Degraded, &["all_joining"]);
        check(&report(vec![joining, tenant("b", "following")]), Level::Ok, &[]);
        let text = "no user of the source has the key a".to_owned();
        let without_users = Some(WithoutUsers { text, remedy: "set its key".to_owned() });
        let unused = TenantReport { without_users, ..tenant("a", "following") };
        check(&report(vec![unused]), Level::Degraded, &["tenant_without_users"]);
        let rejecting = TenantReport { rejected: 2, ..tenant("a", "following") };
        check(
            &report(vec![rejecting, tenant("b", "unknown")]),
            Level::Degraded,
            &["rejected_users", "tenant_not_started"],
        );
    }
}
