//! Where the topics end, as the brokers' acknowledgements say.

use super::headers::{ID_HEADER, header};
use crate::tee::{PartitionEnd, TopicEnds};
use rdkafka::message::Message;
use std::collections::HashMap;

/// Topics whose ends are recorded together. More of them follow with the next batch.
const RECORDED_AT_ONCE: usize = 100;

/// The ends of the topics of a producer.
#[derive(Default)]
pub(super) struct Ends {
    topics: HashMap<String, Topic>,
    /// A topic that was created again: an acknowledgement has an offset that was written before.
    recreated: Option<String>,
}

struct Topic {
    ends: TopicEnds,
    /// The positions topic does not have these ends yet.
    is_new: bool,
}

impl Ends {
    /// Begins with what the topics hold. `is_new`: the positions topic does not have it.
    pub(super) fn begin(&mut self, topics: impl IntoIterator<Item = (String, TopicEnds, bool)>) {
        self.topics.extend(topics.into_iter().map(|(topic, ends, is_new)| (topic, Topic { ends, is_new })));
    }

    /// A message was written.
    pub(super) fn written(&mut self, message: &impl Message) {
        // The positions topic is compared with the state instead.
        let Some(topic) = self.topics.get_mut(message.topic()) else { return };
        // A duplicate that the brokers dropped has none.
        if message.offset() < 0 {
            return;
        }
        let end = topic.ends.ends.entry(message.partition()).or_default();
        if message.offset() < end.next {
            self.recreated.get_or_insert_with(|| message.topic().to_owned());
            return;
        }
        topic.is_new = true;
        *end = PartitionEnd { next: message.offset() + 1, id: header(message, ID_HEADER) };
    }

    pub(super) fn recreated(&self) -> Option<&str> {
        self.recreated.as_deref()
    }

    pub(super) fn has_new(&self) -> bool {
        self.topics.values().any(|topic| topic.is_new)
    }

    /// Takes some of the ends that the positions topic does not have.
    pub(super) fn take_new(&mut self) -> Vec<(String, TopicEnds)> {
        let new = self.topics.iter_mut().filter(|(_, topic)| topic.is_new).take(RECORDED_AT_ONCE);
        let take = |(name, topic): (&String, &mut Topic)| {
            topic.is_new = false;
            (name.clone(), topic.ends.clone())
        };
        new.map(take).collect()
    }
}
