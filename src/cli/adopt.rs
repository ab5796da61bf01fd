//! `adopt`: takes over a target that already has rows, after a comparison and a question.

use super::common::{ConfigFile, FAILED, connect_state};
use super::confirm::confirm;
use super::output::{self, Format};
use super::resync::{Asked, Resynced, TenantOutcome, exit_code, outcome_lines, report, resync};
use super::signals::signals;
use super::tenants::select_tenants;
use crate::cli::exit::ExitCode;
use crate::config::{Config, Tenant};
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::{Deletes, ExtraRows, TenantId, shell_word};
use crate::operations::adopt::{Survey, survey};
use crate::operations::verify::{Verdict, Verifying, verify};
use crate::snapshot::Differences;
use crate::state::StateStore;
use crate::status::progress_handle::ProgressHandle;
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;

/// How long the comparison may wait for the source's rows.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Tenant whose target is to be taken over.
    #[cfg_attr(feature = "kafka", arg(required_unless_present = "kafka"))]
    #[cfg_attr(not(feature = "kafka"), arg(required = true))]
    #[arg(value_name = "TENANT")]
    tenant: Option<String>,
    /// Take over the topics of Kafka instead: another installation, which no longer runs, has written to them.
    ///
    /// It prints what was found, and asks. A running installation is refused. The next session publishes every user again,
    /// and a delete for users who are gone.
    #[cfg(feature = "kafka")]
    #[arg(long, conflicts_with_all = ["tenant", "extra", "allow_deletes", "ids"])]
    kafka: bool,
    /// What happens to rows whose users the source does not have.
    ///
    /// With `keep` they stay as they are, also in later snapshots; `verify` reports them as extra.
    #[arg(long, value_enum, default_value = "mark-deleted")]
    extra: ExtraRows,
    /// Ignore limits.max_deletes, however many users this marks as deleted.
    #[arg(long)]
    allow_deletes: bool,
    /// Number of example ids to print per category.
    #[arg(long, default_value_t = 5, value_name = "N")]
    ids: usize,
    /// Skip the confirmation.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

/// The comparison as JSON.
#[derive(Clone, Copy, Serialize)]
struct Compared {
    equal: u64,
    missing: u64,
    different: u64,
    extra: u64,
    still_changing: u64,
}

#[derive(Serialize)]
struct Document<'a> {
    /// Who wrote the rows.
    writer: &'a str,
    /// Null if the target has no rows.
    compared: Option<Compared>,
    tenants: &'a [TenantOutcome],
}

pub(super) async fn execute(arguments: &Arguments, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let config = file.load().await?;
    #[cfg(feature = "kafka")]
    if arguments.kafka {
        return super::adopt_kafka::execute(&config, arguments.yes).await;
    }
    let id = select_tenants(&config, arguments.tenant.as_slice())?.remove(0);
    let Some(tenant) = config.tenants.iter().find(|tenant| tenant.id == id) else {
        return Err(diagnostic!("the configuration has no tenant {id}"));
    };
    let state = connect_state(&config).await?;
    let known = StateStore::read(&state, &config.source.slot)
        .await
        .map_err(|error| diagnostic!("cannot read the state: {error}"))?;
    let found = survey(&config, tenant, &state, &known).await;
    let found = found.map_err(|obstacle| diagnostic!(help = obstacle.remedy(&id), "tenant {id}: {obstacle}"))?;
    state.close().await;
    let writer = writer(tenant, &found);
    output::line(&writer);
    let mut compared = None;
    if let Some(live) = found.live {
        let (users, differences) = compare(&config, &id, arguments.ids).await?;
        let Differences { missing, different, extra, still_changing, .. } = differences;
        let equal = count_equal(users, &differences);
        compared = Some(Compared { equal, missing, different, extra, still_changing });
        output::part(preview(users, &differences, arguments.extra));
        let word = shell_word(id.as_str());
        let allowed = config.limits.max_deletes.allowed(live, users, Deletes::Soft);
        if arguments.extra == ExtraRows::MarkDeleted && !arguments.allow_deletes && differences.extra > allowed {
            return Err(diagnostic!(
                help = format!(
                    "users-sync adopt -c FILE {word} --extra keep\nor, if these users are really gone: \
                     users-sync adopt -c FILE {word} --allow-deletes"
                ),
                "nothing was changed: {} of {live} users would be marked as deleted, more than limits.max_deletes allows \
                 ({allowed})",
                differences.extra
            ));
        }
    }
    if !arguments.yes && !confirm("Take them over?")? {
        output::outcome("nothing was changed", false)?;
        return Ok(ExitCode::from(FAILED));
    }
    let stop = signals().map_err(|error| diagnostic!("cannot handle signals: {error}"))?;
    let asked = Asked { allow_deletes: arguments.allow_deletes, adopt: Some(arguments.extra) };
    let was_started = known.source.is_some();
    let resynced = resync(&config, &[id], asked, stop).await?;
    let Resynced::Done(tenants) = &resynced else { return report(&resynced) };
    output::result(outcome_lines(tenants), &Document { writer: &writer, compared, tenants })?;
    let code = exit_code(tenants);
    if !was_started && code == ExitCode::SUCCESS {
        output::line(format_args!(
            "slot {} retains WAL at the source until a process runs: users-sync run -c FILE",
            config.source.slot
        ));
    }
    Ok(code)
}

/// Who wrote the rows, as far as the target tells.
fn writer(tenant: &Tenant, found: &Survey) -> String {
    let (id, target) = (&tenant.id, &tenant.target);
    match &found.checkpoint {
        None => format!("{id}: users-sync has not written the rows in {target}"),
        Some(found) if found.tenant == *id => {
            format!("{id}: the checkpoint in {target} is at {}, written in epoch {}", found.position, found.epoch)
        }
        Some(found) => format!(
            "{id}: the checkpoint in {target} belongs to tenant {}, which the configuration does not have",
            found.tenant
        ),
    }
}

async fn compare(config: &Config, tenant: &TenantId, examples: usize) -> Result<(u64, Differences), Diagnostic> {
    let how = Verifying { examples, timeout: COMPARE_TIMEOUT, follows: false };
    // An adoption deletes no row, whatever the tenant's mode of deletes is.
    let config = Config { deletes: Deletes::Soft, ..config.clone() };
    let verdicts = verify(&config, std::slice::from_ref(tenant), how, &ProgressHandle::default()).await;
    match verdicts?.pop() {
        Some((_, Verdict::Compared(users, differences))) => Ok((users, differences)),
        Some((_, Verdict::Failed(why))) => Err(diagnostic!(
            help = "users-sync check -c FILE",
            "nothing was changed: tenant {tenant} cannot be compared: {why}"
        )),
        None => Err(diagnostic!("tenant {tenant} cannot be compared")),
    }
}

fn count_equal(users: u64, differences: &Differences) -> u64 {
    users.saturating_sub(differences.missing + differences.different + differences.still_changing)
}

/// What will happen to the rows, with example ids.
fn preview(users: u64, differences: &Differences, extra: ExtraRows) -> String {
    let equal = count_equal(users, differences);
    let of_extra = match extra {
        ExtraRows::MarkDeleted => "only in the target, will be marked as deleted",
        ExtraRows::Keep => "only in the target, will stay as they are",
    };
    let mut text = format!("  {equal} users are equal\n");
    let lines = [
        (differences.different, "different", "will be updated"),
        (differences.missing, "missing", "will be inserted"),
        (differences.extra, "extra", of_extra),
    ];
    for (count, kind, what) in lines {
        let ids: Vec<&str> =
            differences.examples.iter().filter(|user| user.kind == kind).map(|user| user.id.as_str()).collect();
        let _ = write!(text, "  {count} {what}");
        if !ids.is_empty() {
            let more = if (ids.len() as u64) < count { ", ..." } else { "" };
            let _ = write!(text, ": {}{more}", ids.join(", "));
        }
        text.push('\n');
    }
    if differences.still_changing > 0 {
        let _ = writeln!(text, "  {} are changing at the moment", differences.still_changing);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::DifferingUser;

    #[test]
    fn the_preview_counts_every_kind_with_examples() {
        let example = |kind: &str, id: &str| DifferingUser { kind: kind.to_owned(), id: id.to_owned() };
        let differences = Differences {
            missing: 2,
            different: 1,
            extra: 3,
            rejected: 0,
            examples: vec![
                example("different", "u7"),
                example("extra", "x1"),
                example("extra", "x2"),
                example("missing", "u1"),
                example("missing", "u2"),
            ],
            still_changing: 0,
        };
        assert_eq!(
            preview(10, &differences, ExtraRows::Keep),
            "  7 users are equal\n  1 will be updated: u7\n  2 will be inserted: u1, u2\n  3 only in the target, will stay as \
             they are: x1, x2, ...\n"
        );
        assert!(
            preview(10, &differences, ExtraRows::MarkDeleted)
                .contains("3 only in the target, will be marked as deleted")
        );
    }
}
