//! `setup`: prints the least-privilege SQL for the source and the targets, and runs it if an administrator's URL is given.

use super::admins::{AdminUrls, Admins};
use super::common::{ConfigFile, FAILED, cannot_connect_state};
use super::output::{self, Format};
use crate::cli::exit::ExitCode;
use crate::config::{Config, ServerName, Tenant};
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::{Made, TenantId};
use crate::pg::{self, PgUrl, Statements, describe};
use crate::replicator::error::{ServiceError, trouble_of_connect};
use crate::replicator::source::mapping::resolve_layout;
use crate::replicator::source::own_slot::read_own_slot;
use crate::setup::{
    PasswordForm, Script, StateFacts, Statement, TargetFacts, gather, gather_state, gather_target, source_script,
    state_script, target_script,
};
use crate::state::StateStore;
use clap::Args;
use serde::Serialize;

/// Statements give up on a lock after this time, so that they do not block the store's writes.
const SET_LOCK_TIMEOUT: &str = "SET lock_timeout = '5s'";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Run the SQL with the URLs of administrators. Every statement is safe to repeat.
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    admins: Admins,
    /// Application role that is to read and reference users. Repeatable.
    #[arg(long, value_name = "ROLE")]
    application_role: Vec<String>,
    /// Set up only this tenant's target, and the source if --source-admin is given. Default: all targets.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Create the publication FOR ALL TABLES, where nothing else is allowed.
    ///
    /// Every table without a replica identity then refuses UPDATE and DELETE; the output lists them.
    #[arg(long)]
    all_tables: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

/// A part of the work, after it was printed.
#[derive(Default)]
struct Part {
    statements: Vec<Shown>,
    /// The option that names the administrator whom it needs; `None` if nothing is left to do.
    needs_admin: Option<String>,
}

/// A statement as JSON. It holds no secret.
#[derive(Serialize)]
struct Shown {
    sql: String,
    why: String,
    /// Who may run it, if not the role that the others need.
    needs: Option<String>,
}

#[derive(Serialize)]
struct ShownPart {
    place: String,
    statements: Vec<Shown>,
    /// Why it is not done, with `--apply`.
    left: Option<String>,
}

#[derive(Serialize)]
struct Document {
    /// Whether the statements were run.
    is_applied: bool,
    parts: Vec<ShownPart>,
}

impl Part {
    fn of(script: &Script, needs_admin: Option<String>) -> Part {
        let shown = script.statements.iter().map(|Statement { sql, why, needs, .. }| Shown {
            sql: sql.clone(),
            why: why.clone(),
            needs: needs.clone(),
        });
        Part { statements: shown.collect(), needs_admin }
    }
}

pub(super) async fn execute(arguments: &Arguments, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let config = file.load().await?;
    let admins = arguments.admins.read(&config)?;
    let known = |name: &String| config.tenants.iter().any(|tenant| tenant.id.as_str() == name);
    if let Some(unknown) = arguments.tenant.as_ref().filter(|name| !known(name)) {
        return Err(diagnostic!(help = "use an id from `tenants` in the configuration", "unknown tenant {unknown}"));
    }
    if arguments.apply && admins.is_empty() {
        return Err(diagnostic!(
            help = "--source-admin postgres://owner@host/auth --target-admin acme=postgres://owner@host/acme",
            "--apply needs the URL of an administrator"
        ));
    }
    let is_wanted = |tenant: &TenantId| arguments.tenant.as_ref().is_none_or(|only| only == tenant.as_str());
    for shared in config.shared_roles(ServerName::of).iter().filter(|shared| shared.tenants.iter().any(is_wanted)) {
        output::notice(format_args!("warning: {shared}\n    -> {}", shared.remedy()));
    }
    let mut parts = Vec::new();
    // The state first: it records what is made at the source.
    report(arguments, "the state", state(arguments, &config, &admins).await, &mut parts)?;
    report(arguments, "the source", source(arguments, &config, &admins).await, &mut parts)?;
    for tenant in config.tenants.iter().filter(|tenant| is_wanted(&tenant.id)) {
        let done = target(arguments, &config, tenant, &admins).await;
        report(arguments, &format!("the target of tenant {}", tenant.id), done, &mut parts)?;
    }
    let left = parts.iter().filter_map(|part| Some(format!("{}: {}", part.place, part.left.as_ref()?)));
    let left: Vec<String> = left.collect();
    if output::is_json() {
        output::result("", &Document { is_applied: arguments.apply, parts })?;
    }
    if left.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    output::notice(format_args!("not done, run `setup` again for it:\n  {}", left.join("\n  ")));
    Ok(ExitCode::from(FAILED))
}

/// Notes what is left. With `--apply`, a failure does not keep the other parts from being done.
fn report(
    arguments: &Arguments,
    place: &str,
    done: Result<Part, Diagnostic>,
    parts: &mut Vec<ShownPart>,
) -> Result<(), Diagnostic> {
    let (statements, left) = match done {
        Ok(Part { statements, needs_admin }) => {
            let needs_admin = needs_admin.filter(|_| arguments.apply);
            (statements, needs_admin.map(|option| format!("no administrator was given: {option}")))
        }
        Err(diagnostic) if arguments.apply => {
            output::error(&diagnostic);
            (Vec::new(), Some("see the error above".to_owned()))
        }
        Err(diagnostic) => return Err(diagnostic),
    };
    parts.push(ShownPart { place: place.to_owned(), statements, left });
    Ok(())
}

async fn state(arguments: &Arguments, config: &Config, admins: &AdminUrls) -> Result<Part, Diagnostic> {
    let nothing = StateFacts::default();
    if state_script(config, &nothing).is_none() || arguments.tenant.is_some() && admins.state.is_none() {
        return Ok(Part::default());
    }
    let Some(url) = &admins.state else {
        let script = state_script(config, &nothing).unwrap_or_default();
        output::line(&script);
        return Ok(Part::of(&script, Some("--state-admin URL".to_owned())));
    };
    let client = pg::connect_state(url).await.map_err(|error| cannot_connect_state(&error))?;
    let facts = gather_state(&client, &config.state_url.user).await;
    let facts = facts.map_err(|error| diagnostic!("cannot inspect the state: {}", describe(&error)))?;
    let Some(script) = state_script(config, &facts) else { return Ok(Part::default()) };
    output::line(&script);
    if arguments.apply {
        apply_and_record(config, &*client, url, &script).await?;
    }
    Ok(Part::of(&script, None))
}

async fn source(arguments: &Arguments, config: &Config, admins: &AdminUrls) -> Result<Part, Diagnostic> {
    let url = admins.source.as_ref().unwrap_or(&config.source.url);
    let mut client = pg::connect(url).await.map_err(|error| {
        diagnostic!(
            help = "until the role in source.url exists, connect as an administrator: --source-admin URL",
            "{error}"
        )
        .with_code(trouble_of_connect(&error))
    })?;
    let foreign = |why| ServiceError::ForeignSlot { slot: config.source.slot.clone(), why };
    let slot = read_own_slot(&client, &config.source.url, &config.source.slot, foreign).await;
    slot?;
    let config = resolve_layout(&client, config).await?;
    let facts =
        gather(&mut client, &config).await.map_err(|error| diagnostic!("cannot inspect the source: {error}"))?;
    let script = source_script(&config, &facts, arguments.all_tables).map_err(|what| diagnostic!("{what}"))?;
    output::line(&script);
    if admins.source.is_none() {
        let needs_admin = arguments.tenant.is_none().then(|| "--source-admin URL".to_owned());
        return Ok(Part::of(&script, needs_admin));
    }
    if arguments.apply {
        apply_and_record(&config, &*client, url, &script).await?;
    }
    Ok(Part::of(&script, None))
}

const RECORD_HELP: &str = "correct state.url; until it is recorded, `teardown` does not remove it";

async fn apply_and_record(
    config: &Config,
    client: &impl Statements,
    url: &PgUrl,
    script: &Script,
) -> Result<(), Diagnostic> {
    let mut made = Vec::new();
    let applied = apply(client, url, script, &mut made).await;
    let recorded = record(config, &made).await.map_err(|why| diagnostic!(help = RECORD_HELP, "{why}"));
    applied.and(recorded)
}

/// Records what was made, as the role of the state: an administrator writes to no table of another role.
pub(super) async fn record(config: &Config, made: &[Made]) -> Result<(), String> {
    if made.is_empty() {
        return Ok(());
    }
    let failed = |error: &dyn std::fmt::Display| format!("cannot record in the state what was made: {error}");
    let client = pg::connect_state(&config.state_url).await.map_err(|error| failed(&error))?;
    StateStore::record_made(&client, &config.source.slot, made).await.map_err(|error| failed(&error))
}

async fn target(
    arguments: &Arguments,
    config: &Config,
    tenant: &Tenant,
    admins: &AdminUrls,
) -> Result<Part, Diagnostic> {
    let url = admins.targets.get(&tenant.id);
    let client = match url {
        None => None,
        Some(url) => Some(
            pg::connect_target(url)
                .await
                .map_err(|error| diagnostic!("cannot connect to the target of tenant {}: {error}", tenant.id))?,
        ),
    };
    let facts = match &client {
        None => TargetFacts::default(),
        Some(client) => gather_target(client, &tenant.target.user).await.map_err(|error| {
            diagnostic!("cannot inspect the target of tenant {}: {}", tenant.id, client.describe(&error))
        })?,
    };
    let script = target_script(tenant, &facts, config.deletes_rows(), &arguments.application_role)
        .map_err(|what| diagnostic!("the target of tenant {}: {what}", tenant.id))?;
    output::line(&script);
    match client.zip(url) {
        Some((client, url)) if arguments.apply => {
            let mut made = Vec::new();
            let applied = apply(&client, url, &script, &mut made).await;
            // The source may be set up later.
            if let Err(why) = record(config, &made).await {
                output::notice(format_args!("warning: {why}; `teardown` will not drop the role"));
            }
            applied?;
        }
        Some(_) => {}
        None => return Ok(Part::of(&script, Some(format!("--target-admin {}=URL", tenant.id)))),
    }
    Ok(Part::of(&script, None))
}

/// Runs the statements without a transaction: an index cannot be built concurrently inside one. A failure does not keep the
/// later ones from being run, unless the role could not be created. `made` gets what they made.
async fn apply(client: &impl Statements, url: &PgUrl, script: &Script, made: &mut Vec<Made>) -> Result<(), Diagnostic> {
    client.batch_execute(SET_LOCK_TIMEOUT).await.map_err(|error| failed(SET_LOCK_TIMEOUT, &error, None))?;
    let mut failures: Vec<Diagnostic> = Vec::new();
    for statement in &script.statements {
        match run(client, url, statement).await {
            Ok(()) => made.extend(statement.made.clone()),
            Err(failure) => {
                failures.push(failure);
                if statement.sql.starts_with("CREATE ROLE") {
                    break;
                }
            }
        }
    }
    let done = script.statements.len() - failures.len();
    match failures.into_iter().reduce(|first, next| Diagnostic { others: [first.others, vec![next]].concat(), ..first })
    {
        None => output::line(format_args!("-- done: {done} statements\n")),
        Some(failures) => return Err(failures),
    }
    Ok(())
}

async fn run(client: &impl Statements, url: &PgUrl, statement: &Statement) -> Result<(), Diagnostic> {
    let needs = statement.needs.as_deref();
    let Err(error) = client.batch_execute(&statement.to_run(PasswordForm::Verifier)).await else { return Ok(()) };
    if statement.secret.is_none() || !wants_clear_text(&error) {
        return Err(failed(&statement.sql, &error, needs));
    }
    if !is_private(url) {
        return Err(diagnostic!(
            help = CLEAR_TEXT_HELP,
            "{}\nthe host accepts passwords in clear text only, and the connection does not verify the server",
            statement.sql
        ));
    }
    let clear = client.batch_execute(&statement.to_run(PasswordForm::ClearText)).await;
    clear.map_err(|error| failed(&statement.sql, &error, needs))?;
    output::line("-- the host accepts passwords in clear text only: sent over the verified connection");
    Ok(())
}

fn failed(sql: &str, error: &tokio_postgres::Error, needs: Option<&str>) -> Diagnostic {
    let needs = needs.map_or_else(String::new, |needs| format!("the statement needs {needs}\n"));
    diagnostic!(
        help = format!("{needs}fix that, then run `setup` again: every statement is safe to repeat"),
        "{sql}\n{}",
        describe(error)
    )
}

const CLEAR_TEXT_HELP: &str = "connect with sslmode=verify-full, or create the role with the host's own tools, then run \
                                 `setup` again";

/// Whether the host refuses verifiers because it computes them itself, as Neon does.
fn wants_clear_text(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| names_clear_text(error.message()))
}

fn names_clear_text(message: &str) -> bool {
    let message = message.to_lowercase();
    let forms = ["plaintext", "plain text", "cleartext", "clear text", "hashed", "encrypted", "scram"];
    message.contains("password") && forms.iter().any(|form| message.contains(form))
}

/// Whether only the server itself can read what is sent.
fn is_private(url: &PgUrl) -> bool {
    url.host.starts_with('/') || url.verifies_server()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_text_is_sent_only_where_it_is_asked_for_and_private() {
        assert!(names_clear_text("Neon only supports being given plaintext passwords"));
        assert!(names_clear_text("Received HASHED password, expected plaintext"));
        for message in ["permission denied to create role", "role \"a\" already exists", "password is too short"] {
            assert!(!names_clear_text(message), "{message}");
        }
        let url = |text| PgUrl::parse(text).unwrap();
        assert!(is_private(&url("postgres://u@h/db?sslmode=verify-full")));
        assert!(is_private(&url("postgres://u@%2Ftmp/db")));
        assert!(!is_private(&url("postgres://u@h/db?sslmode=require")));
        assert!(!is_private(&url("postgres://u@h/db")));
    }
}
