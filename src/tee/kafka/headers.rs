//! Headers that tell whose message it is.

use rdkafka::message::{Headers, Message};

/// The installation that published it.
pub(super) const INSTALLATION_HEADER: &str = "ce_installation";
/// Slot, position and number of the change.
pub(super) const ID_HEADER: &str = "ce_id";

/// The generation of the source's history that the position belongs to. With `partition_by: tenant`.
pub(super) const GENERATION_HEADER: &str = "ce_generation";
/// The start of the transaction's commit record, for a message of a transaction. With `partition_by: tenant`.
pub(super) const POSITION_HEADER: &str = "ce_position";
/// On the last message of a tenant's part of a transaction: the position behind its commit record. With `partition_by: tenant`.
pub(super) const LAST_HEADER: &str = "ce_last";

/// A header of a message, as text.
pub(super) fn header(message: &impl Message, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let found = headers.iter().find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(found.value?).into_owned())
}
