//! `setup`: the least-privilege SQL for the source and the targets, printed, and run where an administrator's URL is given.

use super::common::ConfigFile;
use crate::config::{Config, Tenant};
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::pg::{self, PgClient, PgUrl, describe};
use crate::replicator::session::prepare::settled;
use crate::setup::{Script, gather, source_script, target_script};
use clap::Args;
use std::process::ExitCode;

/// The store's writes come first: a lock that is not to be had soon is not waited for.
const CAREFULLY: &str = "SET lock_timeout = '5s'";

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Run the SQL, where an administrator's URL is given. Everything is safe to run again.
    #[arg(long)]
    apply: bool,
    /// The source, as the tables' owner or a superuser; default: source.url, which is enough to look.
    #[arg(long, value_name = "URL", env = "USERS_SYNC_SOURCE_ADMIN", hide_env_values = true)]
    source_admin: Option<String>,
    /// A target, as its owner or a superuser. For each tenant whose target is to be set up with --apply.
    #[arg(long, value_name = "TENANT=URL", value_parser = tenant_url)]
    target_admin: Vec<(String, String)>,
    /// A role of the application, which may read users and refer to them.
    #[arg(long, value_name = "ROLE")]
    application_role: Vec<String>,
    /// Only this tenant's target; default: all of them.
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
}

fn tenant_url(text: &str) -> Result<(String, String), String> {
    let (tenant, url) = text.split_once('=').ok_or("it has to be TENANT=URL")?;
    Ok((tenant.to_owned(), url.to_owned()))
}

pub(super) async fn execute(arguments: &Arguments) -> Result<ExitCode, Diagnostic> {
    let config = arguments.file.load()?;
    let known = |name: &str| config.tenants.iter().any(|tenant| tenant.id.as_str() == name);
    let named = arguments.target_admin.iter().map(|(name, _)| name).chain(&arguments.tenant);
    if let Some(unknown) = named.into_iter().find(|name| !known(name)) {
        return Err(diagnostic!(help = "its id is what the configuration says", "there is no tenant {unknown}"));
    }
    if arguments.apply && arguments.source_admin.is_none() && arguments.target_admin.is_empty() {
        return Err(diagnostic!(
            help = "--source-admin postgres://owner@host/auth --target-admin acme=postgres://owner@host/acme",
            "--apply needs to know as whom"
        ));
    }
    source(arguments, &config).await?;
    for tenant in &config.tenants {
        if arguments.tenant.as_ref().is_none_or(|only| only == tenant.id.as_str()) {
            target(arguments, &config, tenant).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn source(arguments: &Arguments, config: &Config) -> Result<(), Diagnostic> {
    let url = match &arguments.source_admin {
        Some(url) => parse(url, "--source-admin")?,
        None => config.source.url.clone(),
    };
    let mut client = pg::connect(&url).await.map_err(|error| {
        diagnostic!(help = "before the role of source.url is there, name another one: --source-admin URL", "{error}")
    })?;
    let config = settled(&client, config).await.map_err(|error| diagnostic!("{error}"))?;
    let facts =
        gather(&mut client, &config).await.map_err(|error| diagnostic!("cannot look at the source: {error}"))?;
    let script = source_script(&config, &facts).map_err(|what| diagnostic!("{what}"))?;
    println!("{script}");
    match (&arguments.source_admin, arguments.apply) {
        (Some(_), true) => apply(&client, &script).await,
        _ => Ok(()),
    }
}

async fn target(arguments: &Arguments, config: &Config, tenant: &Tenant) -> Result<(), Diagnostic> {
    let admin = arguments.target_admin.iter().find(|(name, _)| name == tenant.id.as_str());
    let client = match admin {
        None => None,
        Some((_, url)) => {
            let url = parse(url, "--target-admin")?;
            Some(pg::connect(&url).await.map_err(|error| diagnostic!("the target of tenant {}: {error}", tenant.id))?)
        }
    };
    let role_exists = match &client {
        None => false,
        Some(client) => {
            let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)";
            client.query_one(sql, &[&tenant.target.user]).await.map_err(|error| failed(sql, &error))?.get(0)
        }
    };
    let script = target_script(tenant, role_exists, config.deletes_rows(), &arguments.application_role);
    println!("{script}");
    match client.filter(|_| arguments.apply) {
        Some(client) => apply(&client, &script).await,
        None => Ok(()),
    }
}

/// One after the other: an index is built without a transaction, and everything before a failure may stay.
async fn apply(client: &PgClient, script: &Script) -> Result<(), Diagnostic> {
    client.batch_execute(CAREFULLY).await.map_err(|error| failed(CAREFULLY, &error))?;
    for statement in &script.statements {
        client.batch_execute(&statement.to_run()).await.map_err(|error| failed(&statement.sql, &error))?;
    }
    println!("-- done: {} statements\n", script.statements.len());
    Ok(())
}

fn failed(sql: &str, error: &tokio_postgres::Error) -> Diagnostic {
    diagnostic!(
        help = "mend that and run `setup` again: what was done is skipped or done again",
        "{sql}\n{}",
        describe(error)
    )
}

fn parse(url: &str, option: &str) -> Result<PgUrl, Diagnostic> {
    // Not the URL itself: it may hold a password.
    PgUrl::parse(url).map_err(|error| diagnostic!("{option} is not a usable URL: {error}"))
}
