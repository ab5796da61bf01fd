//! The part of a tenant in a transaction, for `partition_by: tenant`. Pure.

use super::batch::Message;
use crate::model::{ByConfigured, Lsn};
use std::collections::{HashMap, HashSet};

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

/// What the last message of a part says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartEnd {
    /// [`TransactionEnd::end`].
    pub(crate) position: Lsn,
    /// No message of the transaction follows in the partition.
    pub(crate) is_last_in_partition: bool,
}

/// Where the parts of an arranged batch end, by the places of messages.
#[derive(Default)]
pub(crate) struct PartEnds {
    /// The last message of each part.
    pub(crate) ends: HashMap<usize, PartEnd>,
    /// The messages behind it. They must not be published.
    pub(crate) left_out: HashSet<usize>,
}

/// If a message is left out, the one before it is the last one of its part. `is_left_out` also tells whether a message is too large
/// with what the last one says. `partitions`: those of the tenants.
pub(crate) fn ends_of_parts(
    messages: &[Message],
    partitions: &ByConfigured<i32>,
    is_left_out: impl Fn(&Message, Option<PartEnd>) -> bool,
) -> PartEnds {
    let (mut ends, mut left_out) = (HashMap::new(), HashSet::new());
    // By transaction and partition: the last part, unless it has no mark.
    let mut last_parts: HashMap<(Option<Lsn>, i32), Option<usize>> = HashMap::new();
    for (place, message) in messages.iter().enumerate() {
        let Some(position) = message.end_of_part else { continue };
        let is_of_part = |other: &usize| {
            let Message { tenant, commit, .. } = &messages[*other];
            (*tenant, *commit) == (message.tenant, message.commit)
        };
        let mut part = (0..=place).rev().take_while(is_of_part);
        let last = part.find(|other| {
            let is_left_out = is_left_out(&messages[*other], None);
            if is_left_out {
                left_out.insert(*other);
            }
            !is_left_out
        });
        let Some(last) = last else { continue };
        let largest = PartEnd { position, is_last_in_partition: true };
        let is_marked = !is_left_out(&messages[last], Some(largest));
        if is_marked {
            ends.insert(last, PartEnd { position, is_last_in_partition: false });
        }
        last_parts.insert((message.commit, partitions[message.tenant]), is_marked.then_some(last));
    }
    for place in last_parts.into_values().flatten() {
        ends.entry(place).and_modify(|end: &mut PartEnd| end.is_last_in_partition = true);
    }
    PartEnds { ends, left_out }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ConfiguredIdx;

    fn message(tenant: ConfiguredIdx, position: u64) -> Message {
        Message {
            tenant,
            key: crate::tee::batch::Data::Text(0..0),
            value: None,
            id: 0..0,
            time: 0..0,
            kind: "",
            millis: 0,
            commit: Some(Lsn(position)),
            unmappable: None,
            end_of_part: None,
        }
    }

    fn tenants(ids: &[&'static str]) -> Vec<ConfiguredIdx> {
        ids.iter().copied().collect::<ByConfigured<&str>>().indexes().collect()
    }

    #[test]
    fn parts_are_adjacent_and_the_last_message_of_each_is_marked() {
        let tenants = tenants(&["a", "b"]);
        // The transaction at 30 continues in the next batch.
        let sent = [(1, 10), (0, 10), (1, 10), (0, 20), (1, 30), (0, 30), (1, 30)];
        let mut messages: Vec<Message> =
            sent.iter().map(|(tenant, position)| message(tenants[*tenant], *position)).collect();
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

    #[test]
    fn the_last_message_that_fits_ends_the_part_and_the_last_part_of_a_partition_ends_the_transaction_there() {
        let tenants = tenants(&["a", "b", "c"]);
        // a and b share a partition.
        let partitions: ByConfigured<i32> = [0, 0, 1].into_iter().collect();
        let ends = |left_out: &[usize], too_large_with_mark: &[usize]| {
            let mut messages: Vec<Message> = [0, 0, 1, 1, 2].iter().map(|n| message(tenants[*n], 10)).collect();
            messages.push(message(tenants[0], 20));
            for (place, message) in messages.iter_mut().enumerate() {
                message.millis = place as i64;
            }
            arrange(&mut messages, &[TransactionEnd { commit: Lsn(10), end: Lsn(15) }]);
            let is_left_out = |message: &Message, end: Option<PartEnd>| {
                let place = message.millis as usize;
                left_out.contains(&place) || end.is_some() && too_large_with_mark.contains(&place)
            };
            let found = ends_of_parts(&messages, &partitions, is_left_out);
            let left: HashSet<usize> = left_out.iter().copied().collect();
            assert_eq!(found.left_out, left);
            let mut found: Vec<_> =
                found.ends.into_iter().map(|(place, end)| (place, end.position.0, end.is_last_in_partition)).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(ends(&[], &[]), [(1, 15, false), (3, 15, true), (4, 15, true)]);
        assert_eq!(ends(&[1, 3], &[]), [(0, 15, false), (2, 15, true), (4, 15, true)]);
        // Nothing of b is published.
        assert_eq!(ends(&[2, 3], &[]), [(1, 15, true), (4, 15, true)]);
        // A message of b follows that says nothing.
        assert_eq!(ends(&[], &[3]), [(1, 15, false), (4, 15, true)]);
    }
}
