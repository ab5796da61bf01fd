//! Headers that tell whose message it is.

use crate::tee::RecordHeaders;
use rdkafka::message::{BorrowedMessage, Headers, Message};

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
/// On the last message of a transaction in its partition: the position behind its commit record. With `partition_by: tenant`.
pub(super) const COMMIT_HEADER: &str = "ce_commit";

/// The headers of a message of the users' topic. Those that are not text count as missing.
pub(crate) fn record_headers<'m>(message: &'m BorrowedMessage<'_>) -> RecordHeaders<'m> {
    let mut found = RecordHeaders::default();
    let Some(headers) = message.headers() else { return found };
    for header in headers.iter() {
        let value = header.value.and_then(|value| std::str::from_utf8(value).ok());
        match header.key {
            ID_HEADER => found.id = value,
            "ce_tenant" => found.tenant = value,
            "ce_type" => found.kind = value,
            "ce_time" => found.time = value,
            GENERATION_HEADER => found.generation = value,
            POSITION_HEADER => found.position = value,
            LAST_HEADER => found.last = value,
            COMMIT_HEADER => found.commit = value,
            _ => {}
        }
    }
    found
}

/// A header of a message, as text.
pub(super) fn header(message: &impl Message, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let found = headers.iter().find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(found.value?).into_owned())
}
