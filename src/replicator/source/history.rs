//! Whether positions still mean what they meant: one unbroken history, or a new generation. Pure.

use crate::capture::publication::was_altered;
use crate::model::{Generation, HistoryBreak, Lsn};
use crate::state::SourceRow;

/// The source and its slot, as they are found at the start.
#[derive(Clone, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) system_identifier: &'a str,
    pub(crate) timeline: i32,
    /// The slot was made just now.
    pub(crate) slot_created: bool,
    /// Where the slot begins to send.
    pub(crate) confirmed: Lsn,
    /// The end of the source's log.
    pub(crate) flushed: Lsn,
    /// The publication's version.
    pub(crate) publication: &'a str,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum History {
    Same(Generation),
    New(Generation, HistoryBreak),
}

pub(crate) fn decide_history(state: &SourceRow, found: &Found<'_>) -> History {
    let breaks = [
        (state.generation == Generation(0), HistoryBreak::NothingReplicated),
        (found.slot_created, HistoryBreak::NewSlot),
        (state.system_identifier.is_empty(), HistoryBreak::MarkedBroken),
        (was_altered(&state.publication, found.publication), HistoryBreak::Republished),
        (state.system_identifier != found.system_identifier, HistoryBreak::OtherServer),
        // Also where the slot was carried over and every checkpoint lies before the promotion: a user who was read from the
        // old primary is ahead of the checkpoint, and what was read may be among what the promotion has lost.
        (state.timeline != found.timeline, HistoryBreak::Promoted),
        (found.confirmed > state.confirmed, HistoryBreak::SlotMoved),
        (state.confirmed > found.flushed, HistoryBreak::SourceRestored),
    ];
    match breaks.into_iter().find(|(applies, _)| *applies) {
        None => History::Same(state.generation),
        Some((_, reason)) => History::New(Generation(state.generation.0 + 1), reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Epoch;

    fn state() -> SourceRow {
        SourceRow {
            generation: Generation(3),
            system_identifier: "7".into(),
            timeline: 1,
            confirmed: Lsn(100),
            received: Lsn(0),
            behind: Vec::new(),
            publication: String::new(),
            epoch: Epoch(9),
            holder: String::new(),
            lease_seconds: 0.0,
        }
    }

    const FOUND: Found<'_> = Found {
        system_identifier: "7",
        timeline: 1,
        slot_created: false,
        confirmed: Lsn(100),
        flushed: Lsn(200),
        publication: "1:2 3:4 of auth.users",
    };

    #[test]
    fn a_slot_at_or_behind_the_confirmed_position_continues() {
        assert_eq!(decide_history(&state(), &FOUND), History::Same(Generation(3)));
        assert_eq!(decide_history(&state(), &Found { confirmed: Lsn(90), ..FOUND }), History::Same(Generation(3)));
    }

    #[test]
    fn any_break_in_the_history_begins_a_new_generation() {
        let check = |state: SourceRow, found: Found<'_>, expected: HistoryBreak| match decide_history(&state, &found) {
            History::New(generation, reason) => {
                assert_eq!(generation.0, state.generation.0 + 1);
                assert_eq!(reason, expected);
            }
            same => panic!("{same:?}"),
        };
        check(SourceRow { generation: Generation(0), ..state() }, FOUND, HistoryBreak::NothingReplicated);
        check(state(), Found { slot_created: true, ..FOUND }, HistoryBreak::NewSlot);
        check(state(), Found { system_identifier: "8", ..FOUND }, HistoryBreak::OtherServer);
        check(state(), Found { timeline: 2, ..FOUND }, HistoryBreak::Promoted);
        check(state(), Found { confirmed: Lsn(101), ..FOUND }, HistoryBreak::SlotMoved);
        check(state(), Found { confirmed: Lsn(50), flushed: Lsn(99), ..FOUND }, HistoryBreak::SourceRestored);
        check(SourceRow { system_identifier: String::new(), ..state() }, FOUND, HistoryBreak::MarkedBroken);
        check(SourceRow { publication: "1:2 3:5 of auth.users".into(), ..state() }, FOUND, HistoryBreak::Republished);
        for same in ["", FOUND.publication, "1:2 3:4 5:6 of auth.users auth.emails"] {
            let known = SourceRow { publication: same.into(), ..state() };
            assert_eq!(decide_history(&known, &FOUND), History::Same(Generation(3)), "{same}");
        }
    }
}
