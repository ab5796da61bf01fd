//! `setup`: prints the least-privilege SQL for the source and the targets, and runs it if an administrator's URL is given.

use super::common::{ConfigFile, admin_url};
use super::output;
use crate::config::{Config, ServerName, Tenant};
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::TenantId;
use crate::pg::{self, PgUrl, Statements, describe};
use crate::replicator::source::mapping::resolve_layout;
use crate::setup::{PasswordForm, Script, TargetFacts, gather, gather_target, source_script, target_script};
use clap::Args;
use std::fmt;
use std::process::ExitCode;

/// Statements give up on a lock after this time, so that they do not block the store's writes.
const SET_LOCK_TIMEOUT: &str = "SET lock_timeout = '5s'";

/// The variable for `--source-admin`.
const SOURCE_ADMIN: &str = "USERS_SYNC_SOURCE_ADMIN";

#[derive(Args)]
pub(super) struct Arguments {
    /// Run the SQL wherever an administrator's URL is given. Every statement is safe to repeat.
    #[arg(long)]
    apply: bool,
    /// URL of the source, as the tables' owner or a superuser. Default: source.url, which is enough to print.
    ///
    /// Take the password from the environment or a file: ${NAME} or ${file:PATH}.
    #[arg(long, value_name = "URL", env = SOURCE_ADMIN, hide_env_values = true)]
    source_admin: Option<String>,
    /// URL of a target, as its owner or a superuser. Repeat it for every tenant to set up with --apply.
    ///
    /// Take the password from the environment or a file: ${NAME} or ${file:PATH}.
    #[arg(long, value_name = "TENANT=URL", value_parser = tenant_url)]
    target_admin: Vec<TargetAdmin>,
    /// Application role that is to read and reference users. Repeatable.
    #[arg(long, value_name = "ROLE")]
    application_role: Vec<String>,
    /// Set up only this tenant's target. Default: all targets.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
}

impl fmt::Debug for Arguments {
    /// Without the URLs, which may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arguments").field("apply", &self.apply).field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// An administrator's access to a target.
#[derive(Clone)]
struct TargetAdmin {
    tenant: String,
    url: String,
}

fn tenant_url(text: &str) -> Result<TargetAdmin, String> {
    let (tenant, url) = text.split_once('=').ok_or("expected TENANT=URL")?;
    Ok(TargetAdmin { tenant: tenant.to_owned(), url: url.to_owned() })
}

pub(super) async fn execute(arguments: &Arguments, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let config = file.load()?;
    let known = |name: &str| config.tenants.iter().any(|tenant| tenant.id.as_str() == name);
    let named = arguments.target_admin.iter().map(|admin| &admin.tenant).chain(&arguments.tenant);
    if let Some(unknown) = named.into_iter().find(|name| !known(name)) {
        return Err(diagnostic!(help = "use an id from `tenants` in the configuration", "unknown tenant {unknown}"));
    }
    if arguments.apply && arguments.source_admin.is_none() && arguments.target_admin.is_empty() {
        return Err(diagnostic!(
            help = "--source-admin postgres://owner@host/auth --target-admin acme=postgres://owner@host/acme",
            "--apply needs the URL of an administrator"
        ));
    }
    let is_wanted = |tenant: &TenantId| arguments.tenant.as_ref().is_none_or(|only| only == tenant.as_str());
    for shared in config.shared_roles(ServerName::of).iter().filter(|shared| shared.tenants.iter().any(is_wanted)) {
        output::notice(format_args!("warning: {shared}\n    -> {}", shared.remedy()));
    }
    source(arguments, &config).await?;
    for tenant in &config.tenants {
        if is_wanted(&tenant.id) {
            target(arguments, &config, tenant).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn source(arguments: &Arguments, config: &Config) -> Result<(), Diagnostic> {
    let url = match &arguments.source_admin {
        Some(url) => admin_url(url, "--source-admin", Some(SOURCE_ADMIN))?,
        None => config.source.url.clone(),
    };
    let mut client = pg::connect(&url).await.map_err(|error| {
        diagnostic!(
            help = "until the role in source.url exists, connect as an administrator: --source-admin URL",
            "{error}"
        )
    })?;
    let config = resolve_layout(&client, config).await.map_err(|error| diagnostic!("{error}"))?;
    let facts =
        gather(&mut client, &config).await.map_err(|error| diagnostic!("cannot inspect the source: {error}"))?;
    let script = source_script(&config, &facts).map_err(|what| diagnostic!("{what}"))?;
    output::line(&script);
    if arguments.apply && arguments.source_admin.is_some() {
        apply(&*client, &url, &script).await?;
    }
    Ok(())
}

async fn target(arguments: &Arguments, config: &Config, tenant: &Tenant) -> Result<(), Diagnostic> {
    let admin = arguments.target_admin.iter().find(|admin| admin.tenant == tenant.id.as_str());
    let url = admin.map(|admin| admin_url(&admin.url, "--target-admin", None)).transpose()?;
    let client = match &url {
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
        Some((client, url)) if arguments.apply => apply(&client, &url, &script).await,
        _ => Ok(()),
    }
}

/// Runs the statements without a transaction: an index cannot be built concurrently inside one. Statements before a
/// failure stay applied.
async fn apply(client: &impl Statements, url: &PgUrl, script: &Script) -> Result<(), Diagnostic> {
    client.batch_execute(SET_LOCK_TIMEOUT).await.map_err(|error| failed(SET_LOCK_TIMEOUT, &error))?;
    for statement in &script.statements {
        let Err(error) = client.batch_execute(&statement.to_run(PasswordForm::Verifier)).await else { continue };
        if statement.secret.is_none() || !wants_clear_text(&error) {
            return Err(failed(&statement.sql, &error));
        }
        if !is_private(url) {
            return Err(diagnostic!(
                help = CLEAR_TEXT_HELP,
                "{}\nthe host accepts passwords in clear text only, and the connection does not verify the server",
                statement.sql
            ));
        }
        let clear = client.batch_execute(&statement.to_run(PasswordForm::ClearText)).await;
        clear.map_err(|error| failed(&statement.sql, &error))?;
        output::line("-- the host accepts passwords in clear text only: sent over the verified connection");
    }
    output::line(format_args!("-- done: {} statements\n", script.statements.len()));
    Ok(())
}

fn failed(sql: &str, error: &tokio_postgres::Error) -> Diagnostic {
    diagnostic!(
        help = "fix that, then run `setup` again: every statement is safe to repeat",
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
