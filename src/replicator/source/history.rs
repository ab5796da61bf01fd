//! Decides whether the source's positions continue the known history, or a new generation begins. Pure.

use crate::capture::publication::was_altered;
use crate::model::{Anchor, Generation, HistoryBreak, Lsn, ReceivedHistory};
use crate::state::SourceRow;

/// What a session finds at its start.
#[derive(Clone, Debug)]
pub(crate) struct HistoryFacts<'a> {
    pub(crate) system_identifier: &'a str,
    pub(crate) timeline: i32,
    /// This session created the slot.
    pub(crate) slot_created: bool,
    /// The position after which the slot sends.
    pub(crate) confirmed: Lsn,
    /// The end of the source's log.
    pub(crate) flushed: Lsn,
    /// The rows of the publication's version.
    pub(crate) publication: &'a str,
    /// What this process has received in earlier sessions.
    pub(crate) remembered: ReceivedHistory,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum History {
    Same(Generation),
    New(Generation, HistoryBreak),
}

/// The first break that applies begins a new generation.
pub(crate) fn decide_history(state: &SourceRow, facts: &HistoryFacts<'_>) -> History {
    let breaks = [
        (state.generation == Generation(0), HistoryBreak::NothingReplicated),
        (facts.slot_created, HistoryBreak::NewSlot),
        (state.system_identifier.is_empty(), HistoryBreak::MarkedBroken),
        (was_altered(&state.publication, facts.publication), HistoryBreak::Republished),
        (state.system_identifier != facts.system_identifier, HistoryBreak::OtherServer),
        // Even with a failover slot: users read from the old primary are ahead of their checkpoint, and the promotion may
        // have lost these changes.
        (state.timeline != facts.timeline, HistoryBreak::Promoted),
        (facts.confirmed > state.confirmed, HistoryBreak::SlotMoved),
        (state.confirmed.max(state.received) > facts.flushed, HistoryBreak::SourceRestored),
        // The state went back together with the source.
        (facts.remembered.generation > state.generation, HistoryBreak::SourceRestored),
        (
            facts.remembered.generation == state.generation && facts.remembered.received > facts.flushed,
            HistoryBreak::SourceRestored,
        ),
    ];
    match breaks.into_iter().find(|(applies, _)| *applies) {
        None => History::Same(state.generation),
        Some((_, reason)) => {
            // Targets may hold rows of a generation that the state has forgotten.
            let newest = state.generation.max(facts.remembered.generation);
            History::New(Generation(newest.0 + 1), reason)
        }
    }
}

/// The last transaction of the generation that the state or this process has received.
pub(crate) fn newest_anchor(state: &SourceRow, remembered: ReceivedHistory) -> Anchor {
    let is_newer = remembered.generation == state.generation && remembered.anchor.end > state.anchor.end;
    if is_newer { remembered.anchor } else { state.anchor }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, Xid};

    fn state() -> SourceRow {
        SourceRow {
            user_count: None,
            generation: Generation(3),
            system_identifier: "7".into(),
            timeline: 1,
            confirmed: Lsn(100),
            received: Lsn(0),
            behind: Vec::new(),
            behind_seconds: Default::default(),
            trouble: None,
            findings: Vec::new(),
            publication: String::new(),
            shape: None,
            shape_version: 0,
            anchor: Anchor::default(),
            epoch: Epoch(9),
            holder: String::new(),
            lease_seconds: 0.0,
        }
    }

    const FACTS: HistoryFacts<'_> = HistoryFacts {
        system_identifier: "7",
        timeline: 1,
        slot_created: false,
        confirmed: Lsn(100),
        flushed: Lsn(200),
        publication: "1:2 3:4 of auth.users",
        remembered: ReceivedHistory {
            generation: Generation(0),
            received: Lsn(0),
            anchor: Anchor { end: Lsn(0), xid: Xid(0) },
        },
    };

    #[test]
    fn a_slot_at_or_behind_the_confirmed_position_continues() {
        assert_eq!(decide_history(&state(), &FACTS), History::Same(Generation(3)));
        assert_eq!(
            decide_history(&state(), &HistoryFacts { confirmed: Lsn(90), ..FACTS }),
            History::Same(Generation(3))
        );
    }

    #[test]
    fn any_break_in_the_history_begins_a_new_generation() {
        let check =
            |state: SourceRow, facts: HistoryFacts<'_>, expected: HistoryBreak| match decide_history(&state, &facts) {
                History::New(generation, reason) => {
                    assert_eq!(generation.0, state.generation.0 + 1);
                    assert_eq!(reason, expected);
                }
                same => panic!("{same:?}"),
            };
        check(SourceRow { generation: Generation(0), ..state() }, FACTS, HistoryBreak::NothingReplicated);
        check(state(), HistoryFacts { slot_created: true, ..FACTS }, HistoryBreak::NewSlot);
        check(state(), HistoryFacts { system_identifier: "8", ..FACTS }, HistoryBreak::OtherServer);
        check(state(), HistoryFacts { timeline: 2, ..FACTS }, HistoryBreak::Promoted);
        check(state(), HistoryFacts { confirmed: Lsn(101), ..FACTS }, HistoryBreak::SlotMoved);
        check(state(), HistoryFacts { confirmed: Lsn(50), flushed: Lsn(99), ..FACTS }, HistoryBreak::SourceRestored);
        check(SourceRow { received: Lsn(201), ..state() }, FACTS, HistoryBreak::SourceRestored);
        let remembered = ReceivedHistory { generation: Generation(3), received: Lsn(201), ..FACTS.remembered };
        check(state(), HistoryFacts { remembered, ..FACTS }, HistoryBreak::SourceRestored);
        check(SourceRow { system_identifier: String::new(), ..state() }, FACTS, HistoryBreak::MarkedBroken);
        check(SourceRow { publication: "1:2 3:5 of auth.users".into(), ..state() }, FACTS, HistoryBreak::Republished);
        for same in ["", FACTS.publication, "1:2 3:4 5:6 of auth.users auth.emails"] {
            let known = SourceRow { publication: same.into(), ..state() };
            assert_eq!(decide_history(&known, &FACTS), History::Same(Generation(3)), "{same}");
        }
    }

    #[test]
    fn a_generation_that_only_the_process_remembers_is_not_used_again() {
        let remembered = ReceivedHistory { generation: Generation(5), ..FACTS.remembered };
        let found = decide_history(&state(), &HistoryFacts { remembered, ..FACTS });
        assert_eq!(found, History::New(Generation(6), HistoryBreak::SourceRestored));
    }

    #[test]
    fn the_process_may_remember_a_newer_transaction_than_the_state() {
        let anchor = |end| Anchor { end: Lsn(end), xid: Xid(7) };
        let newest = |recorded, generation, remembered| {
            let remembered =
                ReceivedHistory { generation: Generation(generation), received: Lsn(0), anchor: anchor(remembered) };
            newest_anchor(&SourceRow { anchor: anchor(recorded), ..state() }, remembered).end
        };
        assert_eq!(newest(110, 3, 100), Lsn(110));
        assert_eq!(newest(110, 3, 120), Lsn(120));
        assert_eq!(newest(110, 2, 120), Lsn(110));
    }
}
