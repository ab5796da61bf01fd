//! `init`: looks at a source, and writes a configuration for it.

use super::admins::SOURCE_ADMIN;
use super::common::{ConfigFile, TenantUrl, admin_url, holds_password, tenant_url};
use super::dialogue;
use super::output::{self, Format};
use crate::cli::exit::ExitCode;
use crate::config::read_mapping;
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::init::{
    Keys, Proposal, ProposedTenant, Store, Users, UsersTable, find_tables, free_slot, read_keys, recognize,
    variable_for,
};
use crate::map::Rules;
use crate::model::KeyCount;
use crate::pg::{self, PgClient, PgUrl, describe};
use crate::replicator::error::trouble_of_connect;
use crate::replicator::source::mapping::{MappedRelation, compile_current};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// The variable for `--source`, which also stands for the URL in the file.
const SOURCE: &str = "USERS_SYNC_SOURCE_URL";
/// The variable that the file names for a URL with a password.
const SOURCE_IN_FILE: &str = "AUTH_DATABASE_URL";
/// Id of the tenant of a source without tenants.
const ONLY_TENANT: &str = "main";

#[derive(Args)]
pub(super) struct Arguments {
    /// URL of the auth database, as the role that users-sync is to log in with. The file contains it, but never its password.
    #[arg(long, value_name = "URL", env = SOURCE, hide_env_values = true)]
    source: Option<String>,
    /// URL of the auth database, as the tables' owner or a superuser, to look at it. Default: --source.
    ///
    /// Take the password from the environment or a file: ${NAME} or ${file:PATH}.
    #[arg(long, value_name = "URL", env = SOURCE_ADMIN, hide_env_values = true)]
    source_admin: Option<String>,
    /// Preset of the auth store. Default: the one whose tables the source has.
    #[arg(long, value_name = "NAME", env = "USERS_SYNC_PRESET")]
    preset: Option<String>,
    /// Table of the users, for a source that is no known auth store. Default: the one that looks like it.
    #[arg(long, value_name = "SCHEMA.NAME", conflicts_with = "preset")]
    table: Option<String>,
    /// Tenant to write, with the value of its users' tenant column if that differs from its id. Repeatable. Default: every
    /// tenant that has users.
    #[arg(long, value_name = "ID[=KEY]")]
    tenant: Vec<String>,
    /// URL of a tenant's target. The file contains it, but never its password. Repeatable. Default: a variable.
    #[arg(long, value_name = "TENANT=URL", value_parser = tenant_url)]
    target: Vec<TenantUrl>,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
    /// Do not ask on the terminal.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Serialize)]
struct Document<'a> {
    file: String,
    /// The preset, if the source is a known auth store.
    preset: Option<&'a str>,
    table: Option<&'a str>,
    tenants: Vec<ShownTenant<'a>>,
    /// The environment variables that the file refers to.
    variables: Vec<&'a str>,
}

#[derive(Serialize)]
struct ShownTenant<'a> {
    id: &'a str,
    /// The value of its users' tenant column, if it is not the id.
    key: Option<&'a str>,
    users: Option<u64>,
}

impl fmt::Debug for Arguments {
    /// Without the URLs, which may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arguments").field("preset", &self.preset).field("table", &self.table).finish_non_exhaustive()
    }
}

pub(super) async fn execute(arguments: &Arguments, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let path = file.path();
    if path.exists() && !arguments.force {
        return Err(exists(path));
    }
    let asks = !arguments.yes && dialogue::is_possible();
    let mut targets = arguments.target.clone();
    let source = match &arguments.source {
        None if arguments.source_admin.is_none() && asks => {
            Some(dialogue::ask("URL of the auth database (postgres://user:password@host/database)", "")?)
        }
        given => given.clone(),
    };
    let client = connect(arguments, source.as_deref()).await?;
    let FoundUsers { users, rules, mapped } = find_users(&client, arguments, asks).await?;
    let keys = read_keys(&client, &rules, &mapped).await;
    let slot = free_slot(&client).await.map_err(|error| unreadable(&error))?;
    client.close().await;
    let (mut tenants, others) = propose_tenants(arguments, keys, asks)?;
    let mut variables = BTreeSet::from([SOURCE_IN_FILE.to_owned(), SOURCE.to_owned()]);
    for tenant in &mut tenants {
        let variable = variable_for(&tenant.id, &mut variables);
        let given = targets.iter().position(|given| given.tenant == tenant.id).map(|at| targets.swap_remove(at).url);
        let given = match given {
            None if asks => {
                let default = format!("${{{variable}}}");
                Some(dialogue::ask(&format!("URL of the target of tenant {}", tenant.id), &default)?)
            }
            given => given,
        };
        tenant.target = in_file(given.as_deref(), &variable, "--target")?;
    }
    if let Some(TenantUrl { tenant: unknown, .. }) = targets.first() {
        return Err(diagnostic!(help = "name it with --tenant, too", "--target names an unknown tenant: {unknown}"));
    }
    let is_from_variable = source.is_some() && source == std::env::var(SOURCE).ok();
    let source_url = match source {
        _ if is_from_variable => format!("${{{SOURCE}}}"),
        source => in_file(source.as_deref(), SOURCE_IN_FILE, "--source")?,
    };
    let proposal = Proposal { source_url, slot, users, tenants, others };
    write(path, &proposal.render(), arguments.force)?;
    report(path, &proposal)?;
    Ok(ExitCode::SUCCESS)
}

fn exists(path: &Path) -> Diagnostic {
    diagnostic!(help = "write another file with -c FILE, or replace it with --force", "{} exists", path.display())
}

fn unreadable(error: &tokio_postgres::Error) -> Diagnostic {
    diagnostic!("cannot inspect the source: {}", describe(error))
}

async fn connect(arguments: &Arguments, source: Option<&str>) -> Result<PgClient, Diagnostic> {
    let url = match (&arguments.source_admin, source) {
        (Some(admin), _) => admin_url(admin, "--source-admin", Some(SOURCE_ADMIN))?,
        (None, Some(source)) => admin_url(source, "--source", Some(SOURCE))?,
        (None, None) => {
            return Err(diagnostic!(
                help = "--source 'postgres://users_sync:${PASSWORD}@host/database', or set USERS_SYNC_SOURCE_URL",
                "init needs the URL of the auth database"
            ));
        }
    };
    let help = "until its role exists, look as an administrator: --source-admin URL";
    let connected = pg::connect(&url).await;
    connected.map_err(|error| diagnostic!(help = help, "{error}").with_code(trouble_of_connect(&error)))
}

/// Where the users are, and the mapping for them.
struct FoundUsers {
    users: Users,
    rules: Rules,
    mapped: MappedRelation,
}

async fn find_users(client: &PgClient, arguments: &Arguments, asks: bool) -> Result<FoundUsers, Diagnostic> {
    if let Some(wanted) = &arguments.table {
        let tables = find_tables(client).await.map_err(|error| unreadable(&error))?;
        let found = tables.iter().find(|found| found.table.to_string() == *wanted);
        let names = tables.iter().map(|found| found.table.to_string()).collect::<Vec<_>>().join(", ");
        let help = if names.is_empty() {
            "there is no table with an e-mail address and a primary key".to_owned()
        } else {
            format!("tables with an e-mail address and a primary key: {names}")
        };
        return match found {
            Some(found) => with_table(client, found).await,
            None => Err(diagnostic!(help = help, "{wanted} is no table of users")),
        };
    }
    let mut stores = recognize(client).await.map_err(|error| unreadable(&error))?;
    let names: Vec<&str> = stores.iter().map(|store| store.preset).collect();
    let wanted = match &arguments.preset {
        Some(preset) => Some(preset.clone()),
        None if stores.len() > 1 && asks => Some(dialogue::ask(&format!("Preset, of {}", names.join(", ")), names[0])?),
        None => None,
    };
    let at = match &wanted {
        None => 0,
        Some(wanted) => names.iter().position(|name| name == wanted).ok_or_else(|| unfit(wanted, &names))?,
    };
    if at < stores.len() {
        let Store { preset, about, rules, mapped, .. } = stores.swap_remove(at);
        return Ok(FoundUsers { users: Users::Preset { name: preset, about }, rules, mapped });
    }
    let tables = find_tables(client).await.map_err(|error| unreadable(&error))?;
    match &tables[..] {
        [first, ..] => with_table(client, first).await,
        [] => Err(diagnostic!(
            help = "connect to the database of the auth store, or write the file by hand: config/minimal.yaml",
            "the source has no tables of a known auth store, and no table with an e-mail address and a primary key"
        )),
    }
}

fn unfit(wanted: &str, fitting: &[&str]) -> Diagnostic {
    let help = match fitting {
        [] => "the source has no tables of a known auth store; name the table of its users: --table SCHEMA.NAME"
            .to_owned(),
        fitting => format!("presets whose tables it has: {}", fitting.join(", ")),
    };
    diagnostic!(help = help, "the source does not have the tables of preset {wanted}")
}

async fn with_table(client: &PgClient, table: &UsersTable) -> Result<FoundUsers, Diagnostic> {
    let users = table.users();
    let cannot = |why: &dyn fmt::Display| diagnostic!("{} cannot be mapped: {why}", table.table);
    let rules = read_mapping(&users.section()).into_iter().next().map(|family| family.rules);
    let rules = rules.ok_or_else(|| cannot(&"its names are not supported"))?;
    let mapped = compile_current(client, &rules).await.map_err(|error| cannot(&error))?;
    Ok(FoundUsers { users, rules, mapped })
}

/// The tenants of the file, without their targets, and how many others have users.
fn propose_tenants(arguments: &Arguments, keys: Keys, asks: bool) -> Result<(Vec<ProposedTenant>, u64), Diagnostic> {
    let tenant = |id: &str, key: Option<&str>, users| ProposedTenant {
        id: id.to_owned(),
        key: key.filter(|key| *key != id).map(str::to_owned),
        users,
        target: String::new(),
    };
    let (found, others) = match keys {
        Keys::One => (vec![tenant(ONLY_TENANT, None, None)], 0),
        Keys::Counted { largest, others } => {
            let found = largest.iter().map(|KeyCount { key, users }| tenant(key, None, Some(*users)));
            (found.collect::<Vec<_>>(), others)
        }
        Keys::Unknown(why) => {
            output::notice(format_args!("warning: the tenants cannot be read: {why}"));
            (Vec::new(), 0)
        }
    };
    let named = match &arguments.tenant[..] {
        [] if asks && found.len() > 1 => {
            let list = found.iter().map(|tenant| tenant.id.as_str()).collect::<Vec<_>>().join(", ");
            let answer = dialogue::ask(&format!("Tenants, of {list}"), "all")?;
            let named = answer.split(',').map(|id| id.trim().to_owned());
            if answer == "all" { Vec::new() } else { named.collect() }
        }
        given => given.to_vec(),
    };
    if named.is_empty() {
        return match found.len() {
            0 => Err(diagnostic!(
                help = "name one: --tenant ID, or --tenant ID=KEY with the value of its users' tenant column",
                "no tenant has users that can be read"
            )),
            _ => Ok((found, others)),
        };
    }
    let named = named.iter().map(|text| {
        let (id, key) = text.split_once('=').map_or((text.as_str(), None), |(id, key)| (id, Some(key)));
        let users = found.iter().find(|found| found.id == key.unwrap_or(id)).and_then(|found| found.users);
        tenant(id, key, users)
    });
    Ok((named.collect(), 0))
}

/// A URL as the file contains it: a variable stands for one that is not given or holds a password.
fn in_file(url: Option<&str>, variable: &str, option: &str) -> Result<String, Diagnostic> {
    let Some(url) = url else { return Ok(format!("${{{variable}}}")) };
    if !url.contains("${") {
        PgUrl::parse(url).map_err(|error| diagnostic!("invalid {option}: {error}"))?;
    }
    if holds_password(url) {
        output::notice(format_args!("{option}: set {variable} to this URL; the file contains no password"));
        return Ok(format!("${{{variable}}}"));
    }
    Ok(url.to_owned())
}

/// The file is complete or not there.
fn write(path: &Path, text: &str, replaces: bool) -> Result<(), Diagnostic> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => exists(path),
        _ => diagnostic!("cannot write {}: {error}", path.display()),
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    new.write_all(text.as_bytes()).map_err(failed)?;
    let kept = if replaces { new.persist(path) } else { new.persist_noclobber(path) };
    kept.map_err(|error| failed(error.error)).map(drop)
}

fn report(path: &Path, proposal: &Proposal) -> Result<(), Diagnostic> {
    let path = path.display();
    let (users, preset, table) = match &proposal.users {
        Users::Preset { name, about } => (format!("{about} (preset {name})"), Some(*name), None),
        Users::Table { table, .. } => (format!("table {table}"), None, Some(&**table)),
    };
    let n = proposal.tenants.len();
    let mut text = format!("wrote {path}: {users}, {n} tenant{}\n", if n == 1 { "" } else { "s" });
    let variables: Vec<&str> = proposal.variables().collect::<BTreeSet<_>>().into_iter().collect();
    if !variables.is_empty() {
        text += &format!("set these variables: {}\n", variables.join(", "));
    }
    text += &format!("then:\n  users-sync setup -c {path}\n  users-sync check -c {path}\n  users-sync run -c {path}");
    let tenants = proposal.tenants.iter().map(|tenant| ShownTenant {
        id: &tenant.id,
        key: tenant.key.as_deref(),
        users: tenant.users,
    });
    output::result(text, &Document { file: path.to_string(), preset, table, tenants: tenants.collect(), variables })
}
