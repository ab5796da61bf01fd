//! Messages on their way to Kafka: one buffer for all of their texts. Pure.

use std::ops::Range;

/// A part of a batch's buffer.
pub type Text = Range<usize>;

/// Messages of one or more transactions, in order.
#[derive(Debug, Default)]
pub struct Batch {
    /// What the messages' ranges point into.
    pub text: String,
    /// In the order in which they are to be published.
    pub messages: Vec<Message>,
}

/// A message, as far as it is not the same for all.
#[derive(Debug, Clone)]
pub struct Message {
    /// By its place among the tenants.
    pub tenant: usize,
    /// Never empty.
    pub key: Text,
    /// `None` for a tombstone.
    pub value: Option<Text>,
    /// `ce_id`.
    pub id: Text,
    /// `ce_time`.
    pub time: Text,
    /// `ce_type`.
    pub kind: &'static str,
    /// The record's timestamp: milliseconds since the Unix epoch.
    pub millis: i64,
}

impl Batch {
    /// A part of the buffer.
    pub fn part(&self, part: &Text) -> &str {
        &self.text[part.clone()]
    }

    /// Appends what `write` writes.
    pub(super) fn put(&mut self, write: impl FnOnce(&mut String)) -> Text {
        let from = self.text.len();
        write(&mut self.text);
        from..self.text.len()
    }

    /// Forgets what was put last: everything behind this many messages.
    pub fn truncate(&mut self, messages: usize) {
        self.messages.truncate(messages);
    }

    /// What it weighs.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether there is nothing to be published.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}
