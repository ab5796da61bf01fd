//! A batch of messages for Kafka, with one buffer for all of their texts and one for binary keys and values. Pure.

use crate::model::{ConfiguredIdx, Lsn};
use std::ops::Range;

/// A byte range of a batch's texts.
pub(crate) type Text = Range<usize>;

/// A key or a value.
#[derive(Debug, Clone)]
pub(crate) enum Data {
    /// JSON, in the batch's texts.
    Text(Text),
    /// In the batch's binary buffer.
    Binary(Range<usize>),
}

impl Data {
    /// Size in bytes.
    pub(crate) fn len(&self) -> usize {
        let (Data::Text(range) | Data::Binary(range)) = self;
        range.len()
    }
}

/// Messages of one or more transactions, in order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The buffer of the messages' texts.
    pub text: String,
    /// The buffer of binary keys and values. Empty if they are JSON.
    binary: Vec<u8>,
    /// The messages, in publishing order.
    pub messages: Vec<Message>,
}

/// The parts of a message that differ between messages.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// The tenant.
    pub tenant: ConfiguredIdx,
    /// The record's key. Never empty.
    pub key: Data,
    /// The record's value. `None` for a tombstone.
    pub value: Option<Data>,
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

    /// The bytes of a key or a value.
    pub(crate) fn data(&self, data: &Data) -> &[u8] {
        match data {
            Data::Text(range) => self.text[range.clone()].as_bytes(),
            Data::Binary(range) => &self.binary[range.clone()],
        }
    }

    /// As [`Batch::put`], for a key or a value in JSON.
    pub(super) fn put_json(&mut self, write: impl FnOnce(&mut String)) -> Data {
        Data::Text(self.put(write))
    }

    /// Appends the bytes that `write` produces.
    pub(super) fn put_binary(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Data {
        let from = self.binary.len();
        write(&mut self.binary);
        Data::Binary(from..self.binary.len())
    }

    /// Removes the last message with its texts, key and value.
    pub(super) fn pop(&mut self) {
        let Some(Message { key, value, id, .. }) = self.messages.pop() else { return };
        for data in [Some(key), value, Some(Data::Text(id))].into_iter().flatten() {
            match data {
                Data::Text(range) => self.text.truncate(range.start),
                Data::Binary(range) => self.binary.truncate(range.start),
            }
        }
    }

    /// Size of the buffers in bytes.
    pub(crate) fn len(&self) -> usize {
        self.text.len() + self.binary.len()
    }

    /// Whether the batch has no messages.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}
