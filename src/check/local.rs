//! Checks what `run` needs on this machine: the port, the spool's directory, and limits that fit.

use super::finding::{Finding, Subject};
use crate::config::Config;
use crate::model::CheckFinding;
use crate::snapshot;
use std::net::TcpListener;

const SPOOL_REMEDY: &str =
    "create this directory for the user that runs users-sync, with permission to write, or correct spool.directory";
pub(crate) const LISTEN_REMEDY: &str = "stop the program that uses this port, or set another one in admin.listen";
/// A smaller limit of memory is more often a number without its unit.
const SMALLEST_MEMORY: usize = 1 << 20;

pub(super) fn spool(config: &Config) -> Option<Finding> {
    let error = snapshot::try_directory(&config.spool).err()?;
    let message = format!("no file can be created in spool.directory {error}");
    Some(Finding::error(Subject::Spool, CheckFinding::SpoolUnusable, message, SPOOL_REMEDY))
}

/// The finding for a port that `run` cannot listen on. Not for a running process, which uses the port itself.
pub(super) fn listen(config: &Config) -> Option<Finding> {
    let at = config.admin.as_ref()?.listen;
    let error = TcpListener::bind(at).err()?;
    let message = format!("admin.listen: cannot listen on {at}: {error}");
    Some(Finding::error(Subject::Machine, CheckFinding::ListenInUse, message, LISTEN_REMEDY))
}

pub(super) fn memory(config: &Config) -> impl Iterator<Item = Finding> {
    let limits = [("limits.memory", config.limits.memory), ("limits.tenant_memory", config.limits.tenant_memory)];
    limits.into_iter().filter(|(_, bytes)| *bytes < SMALLEST_MEMORY).map(|(key, bytes)| {
        let message = format!("{key} is {bytes} bytes: larger rows are set aside, and tenants are parked");
        let remedy = format!("write {key} with its unit, such as 256MB, or remove it for the default");
        Finding::warning(Subject::Machine, CheckFinding::SmallMemory, message, remedy)
    })
}
