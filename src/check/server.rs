//! Assesses settings of the source's server that make it harm the auth store, or refuse our slot. Pure.

use super::finding::{Finding, Subject};
use super::server_facts::ServerFacts;
use crate::capture::synchronous::CountsAsStandby;

pub(super) fn findings(facts: &ServerFacts) -> Vec<Finding> {
    let conflict = facts.synchronous.conflict();
    conflict.into_iter().map(|CountsAsStandby { what, remedy }| Finding::error(Subject::Source, what, remedy)).collect()
}
