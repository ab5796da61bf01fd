//! `status`: prints the state that a process recorded, with the lag behind the source's WAL. Changes nothing.

use super::common::{ConfigFile, FAILED, NOTHING_REPLICATES};
use super::output::{self, Format};
use super::table::columns;
use crate::capture::{CaptureError, SourceLog, read_log};
use crate::cli::exit::ExitCode;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::{Reason, SourceTrouble, describe_keys};
use crate::pg;
use crate::state::{Snapshot, StateStore};
use crate::status::report::{PartitionReport, Report, TeeReport, TroubleReport, UsersWithoutTenant};
use crate::status::verdict::{Level, Verdict, VerdictReason, judge};
use clap::Args;
use serde::Serialize;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) format: Format,
}

pub(super) async fn execute(file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let config = file.load_known().await?;
    let read = read_state(&config).await;
    let known = read.as_ref().ok();
    // The state is shown also while the source is unreachable.
    let tees = known.and_then(|state| state.tee.as_ref()).map(|tee| &*tee.slot);
    let tees = tees.into_iter().chain(config.kafka.as_ref().map(|kafka| &*kafka.slot));
    let slots: Vec<&str> = std::iter::once(&*config.source.slot).chain(tees).collect();
    let log = log(&config, &slots).await.unwrap_or_else(|error| {
        output::notice(format_args!("cannot read the source's log position, so lag in bytes is unknown: {error}"));
        SourceLog::default()
    });
    let nothing = Snapshot::default();
    let mut report = Report::of_state(&config, known.unwrap_or(&nothing), &log);
    let absent = match &read {
        Ok(state) => state.source.is_none().then(|| has_not_started(&config, &report)),
        Err(error) => {
            let (code, since_seconds) = (SourceTrouble::State.code(), 0.0);
            report.trouble = Some(TroubleReport { code, text: error.clone(), since_seconds });
            Some(diagnostic!("{error}"))
        }
    };
    let verdict = judge(&report);
    if output::is_json() || absent.is_none() {
        output::result(table(&report, &verdict), &Document { verdict: &verdict, report: &report })?;
    }
    if let Some(absent) = absent {
        output::error(&absent);
    }
    Ok(match verdict.level {
        Level::Ok => ExitCode::SUCCESS,
        Level::Degraded => ExitCode::from(FAILED),
        Level::Failed => ExitCode::from(NOTHING_REPLICATES),
    })
}

/// Reads the rows of the slot. The error is a message.
async fn read_state(config: &Config) -> Result<Snapshot, String> {
    let client = pg::connect_state(&config.state_url).await.map_err(|error| format!("the state: {error}"))?;
    let state = StateStore::read(&client, &config.source.slot).await;
    client.close().await;
    state.map_err(|error| format!("cannot read the state: {error}"))
}

fn has_not_started(config: &Config, report: &Report) -> Diagnostic {
    if !report.waiting.is_empty() {
        return diagnostic!("`run` is creating its slot: {}", report.waiting.join("; "));
    }
    diagnostic!(
        help = "start `users-sync run`; if it is running, check that it uses the same state.url and source.slot",
        "no state for slot {} in {}: `run` has not started there yet",
        config.source.slot,
        config.state_url
    )
}

/// The JSON document.
#[derive(Serialize)]
struct Document<'a> {
    verdict: &'a Verdict,
    #[serde(flatten)]
    report: &'a Report,
}

async fn log(config: &Config, slots: &[&str]) -> Result<SourceLog, CaptureError> {
    read_log(&*pg::connect(&config.source.url).await?, slots).await
}

/// The partitions of the users' topic, with the processes that apply them.
fn workers(partitions: &[PartitionReport]) -> String {
    let heads = ["PARTITION", "TENANTS", "RECORDS BEHIND", "LAG", "WORKER"].map(str::to_owned);
    let rows = partitions.iter().map(|partition| {
        let dash = || "-".to_owned();
        let PartitionReport { worker, is_held, .. } = partition;
        [
            partition.partition.to_string(),
            partition.tenants.map_or_else(dash, |tenants| tenants.to_string()),
            partition.lag_records.map_or_else(dash, |records| records.to_string()),
            partition.lag_seconds.map_or_else(dash, span),
            if *is_held { worker.clone() } else { format!("none, last {worker}") },
        ]
    });
    let rows: Vec<[String; 5]> = std::iter::once(heads).chain(rows).collect();
    columns(&rows)
}

/// A tenant's row, with its partition as the second cell.
fn with_partition(cells: [String; 7], partition: Option<String>) -> Vec<String> {
    let mut cells: Vec<String> = cells.into();
    if let Some(partition) = partition {
        cells.insert(1, partition);
    }
    cells
}

fn table(report: &Report, verdict: &Verdict) -> String {
    // With `kafka.group`.
    let shows_partitions = !report.partitions.is_empty();
    let heads = ["TENANT", "STATE", "SINCE", "POSITION", "LAG BYTES", "LAG", "LAST ERROR"].map(str::to_owned);
    let rows = report.tenants.iter().map(|tenant| {
        let dash = || "-".to_owned();
        // The reason for a snapshot is no error.
        let is_resync = matches!(tenant.reason_code.and_then(Reason::parse), Some(Reason::Resync(_)));
        let error = tenant.last_error.clone().filter(|_| !is_resync);
        let cells = [
            tenant.tenant.clone(),
            tenant.state.to_owned(),
            tenant.since_seconds.map_or_else(dash, span),
            tenant.position.clone().unwrap_or_else(dash),
            tenant.lag_bytes.map_or_else(dash, |bytes| bytes.to_string()),
            tenant.lag_seconds.map_or_else(dash, span),
            error.unwrap_or_else(dash),
        ];
        let partition = || tenant.partition.map_or_else(dash, |partition| partition.to_string());
        with_partition(cells, shows_partitions.then(partition))
    });
    let heads = with_partition(heads, shows_partitions.then(|| "PARTITION".to_owned()));
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    let mut lines = vec![columns(&rows)];
    if shows_partitions {
        lines.push(workers(&report.partitions));
    }
    if let Some(TeeReport { slot, state, since_seconds, wal_held_bytes, rejected, .. }) = &report.tee {
        let held =
            wal_held_bytes.map_or_else(|| "does not exist".to_owned(), |bytes| format!("retains {bytes} bytes of WAL"));
        lines.push(format!("Kafka output {state} for {}, slot {slot} {held}", span(*since_seconds)));
        if *rejected > 0 {
            lines.push(format!(
                "Kafka output: messages of {rejected} {} are too large, or their rows cannot be mapped: see users_sync.tee_rejected and tee_unmappable in the state",
                if *rejected == 1 { "user" } else { "users" }
            ));
        }
    }
    lines.extend(report.users_without_tenant.as_ref().and_then(without_tenant));
    lines.extend(report.waiting.iter().map(|waiting| format!("waiting: {waiting}")));
    let is_held = if report.is_held { "held" } else { "not held, last held" };
    lines.push(format!("slot {} confirmed {}, {is_held} by {}", report.slot, report.confirmed, report.holder));
    lines.extend(report.idle_processes.iter().map(|process| format!("runs without replicating: {process}")));
    lines.push(format!("verdict: {}", verdict.level));
    lines.extend(verdict.reasons.iter().flat_map(reason_lines));
    lines.join("\n")
}

/// The number of users without a tenant and their keys; `None` if every user has one.
fn without_tenant(counted: &UsersWithoutTenant) -> Option<String> {
    let UsersWithoutTenant { users, without_key, with_unknown_key, keys, error, .. } = counted;
    let Some(users) = users else {
        return Some(format!("users without a tenant: unknown: {}", error.as_deref().unwrap_or("not counted")));
    };
    let describe = describe_keys(without_key.unwrap_or(0), with_unknown_key.unwrap_or(0), keys);
    (*users > 0).then(|| format!("users without a tenant: {users} ({describe})"))
}

/// `level code TENANT: text (for 3m)`, and the remedy in a line of its own.
fn reason_lines(reason: &VerdictReason) -> Vec<String> {
    let tenant = reason.tenant.as_ref().map_or_else(String::new, |tenant| format!(" {tenant}"));
    let since = reason.since_seconds.map_or_else(String::new, |seconds| format!(" (for {})", span(seconds)));
    let text: Vec<&str> = reason.text.lines().map(str::trim).collect();
    let line = format!("{} {}{tenant}: {}{since}", reason.level, reason.code, text.join(" "));
    std::iter::once(line).chain(reason.remedy.iter().map(|remedy| format!("  -> {remedy}"))).collect()
}

/// `0.4s`, `12s`, `3m`, `5h`, `2d`.
fn span(seconds: f64) -> String {
    match seconds.max(0.0) {
        s if s < 10.0 => format!("{s:.1}s"),
        s if s < 120.0 => format!("{s:.0}s"),
        s if s < 7_200.0 => format!("{:.0}m", s / 60.0),
        s if s < 172_800.0 => format!("{:.0}h", s / 3_600.0),
        s => format!("{:.0}d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::SlotState;
    use crate::config::{Env, parse};
    use crate::model::{Anchor, Epoch, Generation, Lsn, ParkCause, Reason, TenantId};
    #[cfg(feature = "kafka")]
    use crate::state::PartitionPlace;
    use crate::state::{PartitionRow, Snapshot, SourceRow, TeeRow, TenantRow, TenantState};

    fn shown() -> Report {
        report("", |_| Vec::new())
    }

    fn report(section: &str, partitions: impl FnOnce(&SourceRow) -> Vec<PartitionRow>) -> Report {
        let none = Env { variable: &|_| None, file: &|_| Err(std::io::Error::from(std::io::ErrorKind::NotFound)) };
        let text = "source: {url: 'postgres://u@h/auth'}\nusers: {table: a.b, id: id, tenant: t}\ntenants:\n\
            - {id: acme, target: 'postgres://u@h/1'}\n- {id: globex, target: 'postgres://u@h/2'}\n\
            - {id: new, target: 'postgres://u@h/3'}\n";
        let config = parse("c.yaml", &format!("{text}{section}"), &none).unwrap();
        let row = |state, reason: Option<&str>, position| TenantRow {
            state,
            reason_code: reason.map(|_| Reason::Park(ParkCause::Rights)),
            reason: reason.map(str::to_owned),
            remedy: reason.map(|_| "make it writable".to_owned()),
            target: "h:5432/1".into(),
            target_id: None,
            generation: Generation(1),
            position,
            since_seconds: 3_600.0,
            rejected: 0,
            relation: None,
            signed: false,
            failures: 0,
            failing_seconds: None,
            opened_as: None,
            purge_due: None,
        };
        let source = SourceRow {
            user_count: None,
            generation: Generation(1),
            system_identifier: "1".into(),
            timeline: 1,
            confirmed: Lsn(0x100),
            received: Lsn(0),
            behind: Vec::new(),
            behind_seconds: Default::default(),
            trouble: None,
            findings: Vec::new(),
            publication: String::new(),
            shape: None,
            shape_version: 0,
            anchor: Anchor::default(),
            epoch: Epoch(1),
            holder: "host:1".into(),
            lease_seconds: 9.0,
        };
        let tenants = [
            (TenantId::new("acme"), row(TenantState::Following, None, Lsn(0x100))),
            (TenantId::new("globex"), row(TenantState::Parked, Some("it is read-only"), Lsn(0x80))),
        ];
        let tee = TeeRow {
            slot: "users_sync_kafka".into(),
            state: TenantState::Parked,
            since_seconds: 60.0,
            published: None,
            reason_code: None,
            reason: Some("cannot reach 127.0.0.1:9092".into()),
            remedy: Some("restart the broker".into()),
            rejected: 0,
            requested: false,
        };
        let partitions = partitions(&source);
        let state = Snapshot {
            source: Some(source),
            tenants: tenants.into(),
            tee: Some(tee),
            partitions,
            ..Snapshot::default()
        };
        let held_back = [("users_sync_kafka".to_owned(), 4096)].into();
        let slots = [("users_sync".to_owned(), SlotState::Active)].into();
        Report::of_state(&config, &state, &SourceLog { end: Some(Lsn(0x20140)), held_back, slots, waits: Vec::new() })
    }

    #[test]
    fn the_table_has_every_tenant_of_the_file() {
        let expected = "\
TENANT  STATE      SINCE  POSITION  LAG BYTES  LAG   LAST ERROR
acme    following  60m    0/100     131136     0.0s  -
globex  parked     60m    -         -          -     it is read-only
new     unknown    -      -         -          -     -
Kafka output parked for 60s, slot users_sync_kafka retains 4096 bytes of WAL
slot users_sync confirmed 0/100, held by host:1
verdict: degraded
degraded rights globex: it is read-only (for 60m)
  -> make it writable
degraded tenant_not_started new: no running process knows this tenant yet
degraded kafka_output: the Kafka output does not publish: cannot reach 127.0.0.1:9092 (for 60s)
  -> restart the broker";
        let report = shown();
        assert_eq!(table(&report, &judge(&report)), expected);
    }

    /// Not what the publisher has received. Rows of a former topic are left out.
    #[cfg(feature = "kafka")]
    #[test]
    fn with_workers_position_and_lag_are_those_that_they_have_recorded() {
        let section = "kafka: {brokers: 'b:9092', topic: users, partition_by: tenant, partitions: 2, group: g}\n";
        let report = report(section, |publisher| {
            let row = |topic: &str, number, received, lease_seconds, committed_offset, place_seconds| PartitionRow {
                topic: topic.to_owned(),
                number,
                source: SourceRow {
                    received: Lsn(received),
                    lease_seconds,
                    holder: format!("worker {number}"),
                    ..publisher.clone()
                },
                place: Some(PartitionPlace { partitions: 2, committed_offset, end_offset: 9 }),
                place_seconds,
            };
            vec![
                row("former", 0, 0x100, -90.0, 0, 90.0),
                row("users", 0, 0x20140, 9.0, 7, 1.0),
                row("users", 1, 0x20140, -30.0, 9, 30.0),
            ]
        });
        let expected = "\
TENANT  PARTITION  STATE      SINCE  POSITION  LAG BYTES  LAG   LAST ERROR
acme    0          following  60m    0/20140   0          0.0s  -
globex  1          parked     60m    -         -          -     it is read-only
new     1          unknown    -      -         -          -     -
PARTITION  TENANTS  RECORDS BEHIND  LAG   WORKER
0          1        2               0.0s  worker 0
1          2        -               -     none, last worker 1
";
        let text = table(&report, &judge(&report));
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn json_has_the_same_fields_as_the_table() {
        let json = serde_json::to_value(shown()).unwrap();
        assert_eq!(json["source_position"], "0/20140");
        assert_eq!(json["tenants"][0]["lag_bytes"], 131_136);
        assert_eq!(json["tenants"][1]["last_error"], "it is read-only");
        assert_eq!(json["tenants"][1]["reason_code"], "rights");
        assert_eq!(json["tenants"][0]["reason_code"], serde_json::Value::Null);
        assert_eq!(json["tenants"][2]["position"], serde_json::Value::Null);
    }
}
