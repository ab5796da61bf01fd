//! The configuration of a running process: what it is read from, and how it is read again on SIGHUP, when a file changes, and when the
//! table of tenants may have changed.

use super::known_tenants::read_known;
use crate::check::{Finding, Severity, check_source, read_state, source_finding};
use crate::config::{
    Config, ConfigError, Files, LoadedConfig, Place, RowFault, ServerName, Tenant, TenantRows, WithRows, load_rows,
    reload_from,
};
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::{SourceTrouble, TenantId};
use crate::replicator::error::ServiceError;
use crate::status::process::ProcessStatus;
use crate::status::verdict::remedy_of_trouble;
use crate::tenant_table::{TableError, TenantTableReader};
use std::collections::HashSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// Interval at which the files are checked for changes, and shortest time between two reads of the table of tenants.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Longest time between two attempts to read the table after one has failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Rows that a message lists. The others are counted.
const LISTED: usize = 5;

/// What the running configuration is read from.
pub(super) struct ConfigSources {
    place: Place,
    files: Files,
    hangup: Signal,
    /// The configuration of the files alone.
    of_files: Config,
    table: TenantTableReader,
    /// What the table held when it was read last.
    rows: Option<TenantRows>,
    /// What was in force before the files changed, until they are.
    former: Option<(Config, Option<TenantRows>)>,
    /// The tenants of the table that are replicated, or were when the last process ended.
    of_table: HashSet<TenantId>,
    /// When the table is read next.
    due: Instant,
    status: Arc<ProcessStatus>,
}

/// Why the configuration is read again.
enum Cause {
    /// SIGHUP, or a file that was written.
    Files,
    /// The table is due, or the database has notified of a change.
    Table,
}

impl ConfigSources {
    /// # Errors
    /// The SIGHUP handler cannot be installed.
    pub(super) fn new(
        place: Place,
        loaded: LoadedConfig,
        status: Arc<ProcessStatus>,
    ) -> std::io::Result<ConfigSources> {
        let LoadedConfig { config: of_files, files } = loaded;
        Ok(ConfigSources {
            place,
            files,
            hangup: signal(SignalKind::hangup())?,
            of_files,
            table: TenantTableReader::default(),
            rows: None,
            former: None,
            of_table: HashSet::new(),
            due: Instant::now(),
            status,
        })
    }

    /// The configuration for the start. A table that cannot be reached, or has no tenant of an earlier process, is waited for, like
    /// the source.
    ///
    /// # Errors
    /// No process has replicated yet, and the query is wrong or its result cannot be used.
    pub(super) async fn first(&mut self) -> Result<Config, Diagnostic> {
        if self.of_files.tenant_table.is_none() {
            return Ok(self.of_files.clone());
        }
        loop {
            let (trouble, failure, is_final) = match self.read_table().await {
                Err(error) => (SourceTrouble::TenantsUnread, unread(&error), error.is_final()),
                Ok(()) => match self.combine_first().await {
                    Ok(config) => {
                        self.status.set_beginning();
                        self.of_table = self.of_table_in(&config);
                        return Ok(config);
                    }
                    Err((trouble, failure)) => (trouble, failure, trouble == SourceTrouble::TenantUnusable),
                },
            };
            if is_final && read_known(&self.of_files).await.is_some_and(|known| known.is_empty()) {
                return Err(failure);
            }
            self.status.set_failing(trouble, failure.summary());
            self.due = self.due.min(Instant::now() + RETRY_INTERVAL);
            if matches!(self.cause().await, Cause::Files) {
                self.read_files();
            }
        }
    }

    /// The configuration for the start, with the rows that were read. Of the tenants of an earlier process only the ids are known: none
    /// of them can stay as it was, but they tell whether the table may be empty.
    async fn combine_first(&mut self) -> Result<Config, (SourceTrouble, Diagnostic)> {
        let mut known = Vec::new();
        if self.rows.as_ref().is_some_and(|rows| rows.rows.is_empty()) {
            let unknown = || diagnostic!("{}", SourceTrouble::State).with_code(SourceTrouble::State);
            known = read_known(&self.of_files).await.ok_or_else(|| (SourceTrouble::State, unknown()))?;
            self.of_table = known.iter().map(|tenant| tenant.id.clone()).collect();
        }
        self.combine(&known).map_err(|error| (SourceTrouble::TenantUnusable, error.into()))
    }

    /// Sends every valid new configuration until the receiver is gone. An invalid one is logged and rejected.
    pub(super) async fn follow(mut self, configs: watch::Sender<Config>) {
        while !configs.is_closed() {
            let cause = self.cause().await;
            match cause {
                Cause::Files => {
                    if !self.read_files() {
                        continue;
                    }
                    // Now, with what the table held; the table follows.
                    self.due = Instant::now();
                    if self.of_files.tenant_table.is_some() && self.rows.is_none() {
                        continue;
                    }
                }
                Cause::Table => {
                    // Many notifications in a row are one read.
                    sleep(POLL_INTERVAL).await;
                    if self.read_table().await.is_err() {
                        continue;
                    }
                }
            }
            let current = configs.borrow().tenants.clone();
            let mut is_applied = false;
            if let Ok(config) = self.combine(&current) {
                let of_table = self.of_table_in(&config);
                is_applied = apply(&configs, config, &cause).await;
                if is_applied {
                    self.of_table = of_table;
                }
            }
            let former = self.former.take();
            if let Some((of_files, rows)) = former.filter(|_| !is_applied) {
                (self.of_files, self.rows) = (of_files, rows);
            }
        }
    }

    /// Waits until something has to be read again.
    async fn cause(&mut self) -> Cause {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => return Cause::Files,
                () = sleep(POLL_INTERVAL) => {}
                () = table_is_due(&self.of_files, &self.table, self.due) => return Cause::Table,
            }
            if self.files_have_settled().await {
                return Cause::Files;
            }
        }
    }

    /// Whether a file has changed, and is not being written any more.
    async fn files_have_settled(&mut self) -> bool {
        if !self.files.have_changed() {
            return false;
        }
        self.files.mark_read();
        sleep(POLL_INTERVAL).await;
        !self.files.have_changed()
    }

    /// Reads the files. `false` if they cannot be used.
    fn read_files(&mut self) -> bool {
        match reload_from(&self.place, &mut self.files) {
            Ok(config) => {
                if config.tenant_table.is_none() {
                    self.table = TenantTableReader::default();
                    self.clear(SourceTrouble::TenantsUnread);
                }
                // The rows of another query have other columns.
                let query = |config: &Config| config.tenant_table.as_ref().map(|table| table.query.clone());
                let rows = if query(&config) == query(&self.of_files) { self.rows.clone() } else { None };
                let of_files = std::mem::replace(&mut self.of_files, config);
                let former = (of_files, std::mem::replace(&mut self.rows, rows));
                // Files that were not in force yet are not what to return to.
                self.former.get_or_insert(former);
                true
            }
            Err(error) => {
                reject(error);
                false
            }
        }
    }

    /// Reads the table, if there is one. After an error the rows of the last read stay.
    async fn read_table(&mut self) -> Result<(), TableError> {
        let Some(table) = &self.of_files.tenant_table else { return Ok(()) };
        let read = self.table.read(table).await;
        let wait = if read.is_ok() { table.every } else { table.every.min(RETRY_INTERVAL) };
        self.due = Instant::now() + wait;
        match read {
            Ok(rows) => {
                self.rows = Some(rows);
                self.clear(SourceTrouble::TenantsUnread);
                Ok(())
            }
            Err(error) => {
                self.note(SourceTrouble::TenantsUnread, error.to_string());
                Err(error)
            }
        }
    }

    /// The files' configuration with the tenants of the table. `current` are those that are replicated now.
    fn combine(&self, current: &[Arc<Tenant>]) -> Result<Config, ConfigError> {
        let of_table = current.iter().filter(|tenant| self.of_table.contains(&tenant.id));
        let current: Vec<Arc<Tenant>> = of_table.cloned().collect();
        let combined = match &self.rows {
            Some(rows) => load_rows(&self.place, &self.of_files, &current, rows),
            None => Ok(WithRows { config: self.of_files.clone(), faults: Vec::new() }),
        };
        let fault = match &combined {
            Ok(WithRows { faults, .. }) => list(faults),
            Err(error) => Some(error.to_string()),
        };
        match fault {
            Some(text) => self.note(SourceTrouble::TenantUnusable, text),
            None => self.clear(SourceTrouble::TenantUnusable),
        }
        combined.map(|combined| combined.config)
    }

    /// The tenants of a configuration that the files do not name.
    fn of_table_in(&self, config: &Config) -> HashSet<TenantId> {
        let own: HashSet<&TenantId> = self.of_files.tenants.iter().map(|tenant| &tenant.id).collect();
        config.tenants.iter().map(|tenant| &tenant.id).filter(|id| !own.contains(id)).cloned().collect()
    }

    /// Shows what is wrong with the table. Logged once.
    fn note(&self, trouble: SourceTrouble, text: String) {
        if self.status.findings.note(trouble, text.clone()) {
            let remedy = remedy_of_trouble(trouble.code());
            tracing::error!(reason_code = trouble.code(), remedy, "{trouble}: {text}");
        }
    }

    fn clear(&self, trouble: SourceTrouble) {
        if self.status.findings.clear(trouble) {
            tracing::info!(reason_code = trouble.code(), "no longer: {trouble}");
        }
    }
}

/// Waits until the table has to be read.
async fn table_is_due(of_files: &Config, table: &TenantTableReader, due: Instant) {
    if of_files.tenant_table.is_none() {
        return pending().await;
    }
    tokio::select! {
        () = sleep_until(due) => {}
        () = table.notified() => {}
    }
}

/// The first faults, and the number of the others.
pub(super) fn list(faults: &[RowFault]) -> Option<String> {
    let mut texts: Vec<String> = faults.iter().take(LISTED).map(ToString::to_string).collect();
    if faults.len() > LISTED {
        texts.push(format!("{} more rows cannot be used", faults.len() - LISTED));
    }
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// The failure of a command that needs the table.
pub(super) fn unread(error: &TableError) -> Diagnostic {
    let trouble = SourceTrouble::TenantsUnread;
    let help = remedy_of_trouble(trouble.code()).unwrap_or_default();
    diagnostic!(help = help, "{trouble}: {error}").with_code(trouble)
}

fn reject(error: ConfigError) {
    // No line of the file: a log is read by more people than the file is.
    let error = Diagnostic::from(error).summary();
    tracing::error!("new configuration rejected, the current one stays in force: {error}");
}

/// The errors at the source that must be fixed before this configuration can be used. Errors that can pass, such as an
/// unreachable server or a lock, are left out: `run` waits for them.
pub(super) async fn find_faults(config: &Config) -> Vec<Finding> {
    match check_source(config, read_state(config).await.as_ref()).await {
        Ok(findings) => {
            let is_permanent = |finding: &Finding| finding.severity == Severity::Error && !finding.can_pass;
            findings.into_iter().filter(is_permanent).collect()
        }
        Err(error) => {
            let finding = source_finding(config, &error);
            if ServiceError::from(error).is_final() { vec![finding] } else { Vec::new() }
        }
    }
}

/// Logs each role that is used for several databases of one server, as far as the URLs tell.
pub(super) fn warn_of_shared_roles(config: &Config) {
    for shared in config.shared_roles(ServerName::of) {
        tracing::warn!(remedy = shared.remedy(), "targets share a role: {shared}");
    }
}

/// Puts a configuration in force. `false` if it was rejected.
async fn apply(configs: &watch::Sender<Config>, config: Config, cause: &Cause) -> bool {
    let only_tenants = {
        let current = configs.borrow();
        if *current == config {
            // The table is read often.
            if matches!(cause, Cause::Files) {
                tracing::info!("configuration reloaded: unchanged");
            }
            return true;
        }
        current.differs_only_in_tenants(&config)
    };
    let errors = if only_tenants { Vec::new() } else { find_faults(&config).await };
    let errors = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    if !errors.is_empty() {
        tracing::error!("new configuration rejected, the current one stays in force: {errors}");
        return false;
    }
    tracing::info!(tenants = config.tenants.len(), "configuration reloaded");
    warn_of_shared_roles(&config);
    configs.send_replace(config);
    true
}
