//! The part of a tenant in a transaction, for `partition_by: tenant`. Pure.

use super::batch::Message;
use crate::model::Lsn;

/// Where a transaction ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TransactionEnd {
    /// The start of its commit record.
    pub(crate) commit: Lsn,
    /// The position behind its commit record: what a target has reached that has applied it.
    pub(crate) end: Lsn,
}

/// Puts each tenant's messages of a transaction next to each other, in their order, and marks the last one. `ends` are the transactions
/// that end in this batch, in their order. One that continues in another batch has no marks here.
pub(crate) fn arrange(messages: &mut [Message], ends: &[TransactionEnd]) {
    for part in messages.chunk_by_mut(|a, b| a.commit == b.commit) {
        let Some(commit) = part[0].commit else { continue };
        part.sort_by_key(|message| message.tenant);
        let Ok(found) = ends.binary_search_by_key(&commit, |end| end.commit) else { continue };
        for of_tenant in part.chunk_by_mut(|a, b| a.tenant == b.tenant) {
            if let Some(last) = of_tenant.last_mut() {
                last.end_of_part = Some(ends[found].end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ByConfigured, ConfiguredIdx};

    #[test]
    fn parts_are_adjacent_and_the_last_message_of_each_is_marked() {
        let tenants: Vec<ConfiguredIdx> = ["a", "b"].into_iter().collect::<ByConfigured<&str>>().indexes().collect();
        let message = |&(tenant, position): &(usize, u64)| Message {
            tenant: tenants[tenant],
            key: 0..0,
            value: None,
            id: 0..0,
            time: 0..0,
            kind: "",
            millis: 0,
            commit: Some(Lsn(position)),
            unmappable: None,
            end_of_part: None,
        };
        // The transaction at 30 continues in the next batch.
        let sent = [(1, 10), (0, 10), (1, 10), (0, 20), (1, 30), (0, 30), (1, 30)];
        let mut messages: Vec<Message> = sent.iter().map(message).collect();
        for (number, message) in messages.iter_mut().enumerate() {
            message.millis = number as i64;
        }
        let ends = [(10, 15), (20, 25)].map(|(commit, end)| TransactionEnd { commit: Lsn(commit), end: Lsn(end) });
        arrange(&mut messages, &ends);
        let shown = messages.iter().map(|message| {
            let tenant = tenants.iter().position(|tenant| *tenant == message.tenant).unwrap();
            (message.millis, tenant, message.end_of_part.map(|end| end.0))
        });
        let expected = [
            (1, 0, Some(15)),
            (0, 1, None),
            (2, 1, Some(15)),
            (3, 0, Some(25)),
            (5, 0, None),
            (4, 1, None),
            (6, 1, None),
        ];
        assert_eq!(shown.collect::<Vec<_>>(), expected);
    }
}
