//! A batch of messages for Kafka, with one buffer for all of their texts. Pure.

use crate::model::{ConfiguredIdx, Lsn};
use std::ops::Range;

/// A byte range of a batch's buffer.
pub(crate) type Text = Range<usize>;

/// Messages of one or more transactions, in order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The buffer that the messages' ranges refer to.
    pub text: String,
    /// The messages, in publishing order.
    pub messages: Vec<Message>,
}

/// The parts of a message that differ between messages.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// The tenant.
    pub tenant: ConfiguredIdx,
    /// The record's key. Never empty.
    pub key: Text,
    /// The record's value. `None` for a tombstone.
    pub value: Option<Text>,
    /// CloudEvents header `ce_id`.
    pub id: Text,
    /// CloudEvents header `ce_time`.
    pub time: Text,
    /// CloudEvents header `ce_type`.
    pub kind: &'static str,
    /// The record's timestamp: milliseconds since the Unix epoch.
    pub millis: i64,
    /// The start of the transaction's commit record. `None` for a user that was read from the source.
    pub commit: Option<Lsn>,
    /// Why the row cannot be mapped. Such a message is not published: it records that its user is left out.
    pub unmappable: Option<Text>,
    /// The end of the transaction, on the last message of its tenant there; see [`arrange`](super::arrange).
    pub end_of_part: Option<Lsn>,
}

impl Batch {
    /// The text of a range.
    pub(crate) fn part(&self, part: &Text) -> &str {
        &self.text[part.clone()]
    }

    /// Appends the text that `write` produces, and returns its range.
    pub(super) fn put(&mut self, write: impl FnOnce(&mut String)) -> Text {
        let from = self.text.len();
        write(&mut self.text);
        from..self.text.len()
    }

    /// Size of the buffer in bytes.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether the batch has no messages.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}
