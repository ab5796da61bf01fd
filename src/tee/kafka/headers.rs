//! Headers that tell whose message it is.

use rdkafka::message::{Headers, Message};

/// The installation that published it.
pub(super) const INSTALLATION_HEADER: &str = "ce_installation";
/// Slot, position and number of the change.
pub(super) const ID_HEADER: &str = "ce_id";

/// A header of a message, as text.
pub(super) fn header(message: &impl Message, name: &str) -> Option<String> {
    let headers = message.headers()?;
    let found = headers.iter().find(|header| header.key == name)?;
    Some(String::from_utf8_lossy(found.value?).into_owned())
}
