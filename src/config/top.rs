//! The top level of the file: its keys, and the [`Config`] that they resolve to. Pure.

use super::admin::{Admin, check_admin};
use super::deletes::{DeletesSection, ModeOrSection};
use super::error::{ConfigError, Fault};
use super::interpolate::Env;
use super::kafka::{Kafka, check_kafka, default_slot};
use super::key_types::{Choice, DurationText};
use super::limits::Limits;
use super::mapping::{Family, Mapping};
use super::redaction::{check_default, check_tenant, redactions};
use super::section::{KeyType, Reader, section};
use super::shared_role::{ServerName, SharedRole, shared_roles};
use super::source::{Publish, Source, State};
use super::spool::Spool;
use super::targets::{ShareRole, Targets};
use super::tenants::{
    Included, ListOrSection, Taken, Tenant, TenantSection, TenantTable, check_unique, fill_targets, is_read_itself,
    items_of, raw_template,
};
use super::topics::shared_topic;
use super::yaml::{Kind, Malformed, Node, parse_yaml};
use crate::map::Rules;
use crate::model::{Deletes, TenantId};
use crate::pg::{PasswordCommand, PasswordSource, PgUrl, Secret};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

section! {
    /// The configuration file. Anywhere in a value `${NAME}` is an environment variable and `${file:PATH}` the content of a
    /// file.
    pub(super) struct File {
        /// The auth database and how it is read.
        source: Source,
        /// The database that stores the state of the replication. By default it is the source, in its schema `users_sync`.
        state: Option<State>,
        /// How a row of the auth database becomes a user. `table` and `id` are required, or `preset`.
        users: Vec<Family> as Mapping,
        /// The tenants and their target databases: a list, or a section with a table that they are read from. Required unless
        /// `include` is set.
        tenants: Option<TenantSection> as Option<ListOrSection>,
        /// Rules for the target databases of all tenants.
        targets: Targets = "{}",
        /// Patterns of further files with `tenants:`, relative to this file: `[tenants.d/*.yaml]`. The files may be added,
        /// changed and removed while users-sync runs.
        include: Vec<String> = "[]",
        /// How long updates may wait for a target that is asleep (scaled to zero). Sign-ups and deletes wake it at once, and
        /// its connection is closed as soon as nothing is pending. By default every change wakes it.
        wake_after: Option<Duration> as Option<DurationText>,
        /// What a delete at the source does in a target.
        deletes: DeletesSection as ModeOrSection = "soft",
        /// Notifies sessions at a target that `LISTEN users_sync`: each payload is the id of a written user. A resync, and a
        /// transaction that writes more than 10,000 users, send one empty payload instead. Deletes by `purge_after` are not
        /// notified.
        ///
        /// A listener needs a session of its own, and must not stay idle in a transaction. PostgreSQL keeps the notifications
        /// for it until its queue (8 GB) is full; then no notifying transaction commits, and the tenant is parked until that
        /// session ends. Notifying transactions of one server commit one after the other.
        notify: bool = "false",
        /// Limits of memory, time and retained WAL.
        limits: Limits = "{}",
        /// Where the users of a snapshot wait for slow targets.
        spool: Spool = "{}",
        /// What happens when the replication slot is lost or invalidated.
        on_slot_loss: OnSlotLoss as Choice<OnSlotLoss> = "resync",
        /// Format of log lines on stderr. `--log` on the command line overrides it; `--log-level` or `RUST_LOG` sets the level.
        log: LogFormat as Choice<LogFormat> = "text",
        /// The Kafka output: the same changes for consumers of Kafka. By default there is none.
        kafka: Option<Kafka>,
        /// The HTTP server: health checks, metrics, an API and a console. By default users-sync listens nowhere;
        /// `admin: {}` enables it.
        admin: Option<Admin>,
    }
}

/// `on_slot_loss`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnSlotLoss {
    /// Create a new slot and resync every tenant.
    Resync,
    /// Exit with an error.
    Stop,
}

/// `log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// The configuration of a process, with every default set and every rule between keys checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The auth database.
    pub source: Source,
    /// The database of the state: `state.url`, or else the source.
    pub state_url: PgUrl,
    /// The mapping of rows to users. Of several families the first, until the source's tables are known.
    pub users: Rules,
    /// The mappings for each layout that the store's tables may have, the most likely first.
    pub families: Vec<Family>,
    /// The tenants in the order of the files, and then those of the table. Ids, keys and targets are unique.
    pub tenants: Vec<Arc<Tenant>>,
    /// The table that further tenants are read from.
    pub tenant_table: Option<Arc<TenantTable>>,
    /// Template of the URL of tenants without one.
    pub target_template: Option<Secret>,
    /// Rules for all targets.
    pub targets: Targets,
    /// Patterns of further files with tenants.
    pub include: Vec<String>,
    /// How long updates may wait for a target that is asleep, for tenants of included files.
    pub wake_after: Option<Duration>,
    /// What a delete at the source does in a target.
    pub deletes: Deletes,
    /// How long after a soft delete the row is deleted.
    pub purge_after: Option<Duration>,
    /// Whether a target's listeners are notified of written users.
    pub notify: bool,
    /// Limits of memory, time and retained WAL.
    pub limits: Limits,
    /// Where the users of a snapshot wait for slow targets.
    pub spool: Spool,
    /// What to do when the slot is lost.
    pub on_slot_loss: OnSlotLoss,
    /// Format of log lines unless the command line sets one. It is read at the start only.
    pub log: LogFormat,
    /// The Kafka output.
    pub kafka: Option<Kafka>,
    /// The HTTP server.
    pub admin: Option<Admin>,
}

impl Config {
    /// Whether rows of a target are deleted, at once or after a time.
    pub fn deletes_rows(&self) -> bool {
        self.deletes == Deletes::Hard || self.purge_after.is_some()
    }

    /// Whether `users-sync apply` writes to the targets, and `users-sync run` only publishes.
    pub fn publishes_only(&self) -> bool {
        self.kafka.as_ref().is_some_and(|kafka| kafka.group.is_some())
    }

    /// The ids of all tenants.
    pub(crate) fn tenant_ids(&self) -> HashSet<&TenantId> {
        self.tenants.iter().map(|tenant| &tenant.id).collect()
    }

    /// The topic that the tenants share; `None` without Kafka, and if each tenant has a topic of its own.
    pub(crate) fn shared_topic(&self) -> Option<String> {
        shared_topic(&self.kafka.as_ref()?.topic, &self.users.table)
    }

    /// The tenants whose targets `users-sync apply` writes to.
    pub(crate) fn applied_elsewhere(&self) -> &[Arc<Tenant>] {
        if self.publishes_only() { &self.tenants } else { &[] }
    }

    /// All roles that are used for a target and another database of the same server, in the order of their first tenants.
    /// `name` tells which server a URL leads to.
    pub(crate) fn shared_roles(&self, name: impl Fn(&PgUrl) -> ServerName) -> Vec<SharedRole> {
        shared_roles(&self.source.url, &self.state_url, &self.tenants, name)
    }

    /// Whether a running session can continue with the other configuration once its tenants have been added and removed.
    /// `admin`, `log` and the rest of `targets` do not concern a session; its redactions are part of `users`.
    pub fn differs_only_in_tenants(&self, other: &Config) -> bool {
        let without = |config: &Config| Config {
            tenants: Vec::new(),
            tenant_table: None,
            target_template: None,
            targets: Targets {
                share_role: ShareRole::Allow,
                password_command: None,
                hash: None,
                mask: None,
                only: None,
            },
            include: Vec::new(),
            wake_after: None,
            admin: None,
            log: LogFormat::Text,
            ..config.clone()
        };
        without(self) == without(other)
    }
}

/// Reads a configuration's text. Errors show `name` as its file.
pub fn parse(name: &str, text: &str, env: &Env<'_>) -> Result<Config, ConfigError> {
    let mut reader = Reader::new(env, File::KEYS);
    let config = read_yaml(text, &mut reader).and_then(|mut root| {
        if let Some(template) = raw_template(&root) {
            fill_targets(&mut root, &template, &mut reader);
        }
        read_config(&root, &mut reader)
    });
    reader.finish(config).map_err(|faults| ConfigError::in_file(faults, name, text))
}

fn read_yaml(text: &str, reader: &mut Reader<'_>) -> Option<Node> {
    match parse_yaml(text) {
        Ok(root) => Some(root),
        Err(Malformed { message, span }) => {
            let fault = Fault::new(&span, format!("this is not YAML: {message}"));
            let rest = text.get(span.start..).unwrap_or_default();
            let before = text.get(..span.start).unwrap_or_default().rsplit('\n').next().unwrap_or_default();
            reader.push(fault.help(if rest.starts_with('\t') || before.starts_with('\t') {
                "replace the tab with spaces"
            } else {
                "check the indentation and the quotes there, and just before"
            }));
            None
        }
    }
}

/// Reads every section, and then checks the rules between them if all could be read.
fn read_config(root: &Node, reader: &mut Reader<'_>) -> Option<Config> {
    let file = File::read(root, "", reader);
    let includes = match root.get("include") {
        Some(Node { kind: Kind::List(patterns), .. }) => !patterns.is_empty(),
        other => other.is_some(),
    };
    if matches!(root.kind, Kind::Section(_) | Kind::Null) && root.get("tenants").is_none() && !includes {
        let fault = Fault::new(&root.span, "tenants is missing");
        reader.push(fault.help("list at least one tenant with its id and target, or name files with include"));
    }
    let file = file?;
    if let Some(TenantSection { from: None, target: Some(_), list: None }) = file.tenants
        && !includes
    {
        let fault = Fault::new(root.span_of("tenants"), "tenants has neither from nor list");
        reader.push(fault.help("name the table that the tenants are read from, list them, or name files with include"));
    }
    Some(resolve(file, root, reader))
}

fn resolve(file: File, root: &Node, reader: &mut Reader<'_>) -> Config {
    let users = file.users[0].rules.clone();
    if file.source.publish == Publish::Columns && users.allow.is_none() && users.query.is_none() {
        let fault = Fault::new(root.span_of("users"), "source.publish is columns, but users.allow is missing");
        reader.push(fault.help("list the columns to publish: such a publication cannot follow new columns"));
    }
    let kafka = file.kafka.map(|mut kafka| {
        if kafka.slot.is_empty() {
            kafka.slot = default_slot(&file.source.slot);
        }
        kafka
    });
    let mut source = file.source;
    set_command(&mut source.url, source.password_command.as_ref(), root.get("source"), "source", reader);
    let state_url = file.state.map_or_else(
        || source.url.clone(),
        |mut state| {
            set_command(&mut state.url, state.password_command.as_ref(), root.get("state"), "state", reader);
            state.url
        },
    );
    let TenantSection { from, target: target_template, list } =
        file.tenants.unwrap_or(TenantSection { from: None, target: None, list: None });
    let tenant_table = from.map(|mut table| {
        let section = root.get("tenants").and_then(|tenants| tenants.get("from"));
        set_command(&mut table.url, table.password_command.as_ref(), section, "tenants.from", reader);
        Arc::new(table)
    });
    let mut config = Config {
        state_url,
        source,
        users,
        families: file.users,
        tenants: Vec::new(),
        tenant_table,
        target_template,
        targets: file.targets,
        include: file.include,
        wake_after: file.wake_after,
        deletes: file.deletes.mode,
        purge_after: file.deletes.purge_after,
        notify: file.notify,
        limits: file.limits,
        spool: file.spool,
        on_slot_loss: file.on_slot_loss,
        log: file.log,
        kafka,
        admin: file.admin,
    };
    check_default(&config.targets, &config.families, root, reader);
    add_tenants(&mut config, list.unwrap_or_default(), root, reader);
    set_redactions(&mut config);
    if let Some(kafka) = &config.kafka {
        check_kafka(kafka, &config.source.slot, &config.users.table, &config.tenants, root, reader);
    }
    if let Some(admin) = &config.admin {
        check_admin(admin, root, reader);
    }
    config
}

/// Lets a command print the password of a URL that has none.
fn set_command(
    url: &mut PgUrl,
    command: Option<&PasswordCommand>,
    section: Option<&Node>,
    path: &str,
    reader: &mut Reader<'_>,
) {
    let Some(command) = command else { return };
    if url.has_password() {
        let span = section.map_or(0..0, |section| section.span_of("password_command").clone());
        let fault = Fault::new(&span, format!("{path} has both password_command and a password in its URL"));
        reader.push(fault.help("remove one of them"));
        return;
    }
    url.password_from = Some(PasswordSource::Command(command.clone()));
}

/// Gives the mapping of each layout what the tenants of all files receive. Called again once the included files are read.
pub(super) fn set_redactions(config: &mut Config) {
    let redactions = redactions(&config.targets, &config.tenants);
    for family in &mut config.families {
        family.rules.redactions = redactions.clone();
    }
    config.users.redactions = redactions;
}

/// Adds the tenants of an included file.
pub(super) fn include(config: &mut Config, name: &str, text: &str, env: &Env<'_>) -> Result<(), ConfigError> {
    let mut reader = Reader::new(env, File::KEYS);
    let included = read_yaml(text, &mut reader).and_then(|mut root| {
        if let Some(template) = &config.target_template {
            fill_targets(&mut root, &template.0, &mut reader);
        }
        let file = Included::read(&root, "", &mut reader)?;
        let taken = Taken::of(&config.tenants);
        for (tenant, item) in file.tenants.iter().zip(items_of(&root)) {
            // Those of its own file have been checked.
            check_unique(&taken, &[], tenant, item, &mut reader);
        }
        add_tenants(config, file.tenants, &root, &mut reader);
        Some(())
    });
    reader.finish(included).map_err(|faults| ConfigError::in_file(faults, name, text))
}

/// Adds the tenants of the file `root` to those of other files.
fn add_tenants(config: &mut Config, tenants: Vec<Tenant>, root: &Node, reader: &mut Reader<'_>) {
    let items = items_of(root);
    let first_too_many = 1_usize.saturating_sub(config.tenants.len());
    for (place, tenant) in tenants.into_iter().enumerate() {
        let tenant = complete(config, tenant, items.get(place), reader);
        if let Some(item) = items.get(place) {
            check_tenant(&tenant, &config.targets, &config.families, item, reader);
        }
        config.tenants.push(Arc::new(tenant));
    }
    refuse_shared_roles(config, items, root, reader);
    let many = if config.tenant_table.is_some() { "tenants.from" } else { "several tenants" };
    if config.users.tenant.is_none() && (config.tenants.len() > 1 || config.tenant_table.is_some()) {
        let span = items.get(first_too_many).map_or(&root.span, |item| &item.span);
        let fault = Fault::new(span, format!("{many}, but users.tenant is missing"));
        reader.push(fault.help("users.tenant names the column that contains the tenant of a user"));
    }
}

/// A tenant with what the file says of all tenants.
pub(super) fn complete(config: &Config, tenant: Tenant, item: Option<&Node>, reader: &mut Reader<'_>) -> Tenant {
    let mut tenant = tenant;
    let Tenant { id, target, password_command, .. } = &mut tenant;
    set_command(target, password_command.as_ref(), item, &format!("tenant {id}"), reader);
    if !target.has_password() {
        target.password_from = config.targets.password_command.clone().map(PasswordSource::Command);
    }
    if is_read_itself(&config.source.url, &config.families, &tenant) {
        let message = format!("tenant {}: its target is the source, and neon_auth.users_sync is read there", tenant.id);
        let fault = Fault::new(item.map_or(&(0..0), |item| item.span_of("target")), message);
        reader.push(fault.help("read another table, or use a target in another database"));
    }
    Tenant { wake_after: tenant.wake_after.or(config.wake_after), ..tenant }
}

/// Reports each tenant among the last `items` whose role is used for another database of its server, if that is refused.
fn refuse_shared_roles(config: &Config, items: &[Node], root: &Node, reader: &mut Reader<'_>) {
    if config.targets.share_role == ShareRole::Allow {
        return;
    }
    let new = &config.tenants[config.tenants.len().saturating_sub(items.len())..];
    for shared in config.shared_roles(ServerName::of) {
        // The last one is in this file, if this file added to the group.
        let Some(last) = shared.tenants.last() else { continue };
        let Some(place) = new.iter().position(|tenant| tenant.id == *last) else { continue };
        let span = items.get(place).map_or(&root.span, |item| item.span_of("target"));
        reader.push(Fault::new(span, format!("targets.share_role is refuse, but {shared}")).help(shared.remedy()));
    }
}
