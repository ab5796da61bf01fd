//! Whether positions still mean what they meant: one unbroken history, or a new generation. Pure.

use crate::capture::publication::was_altered;
use crate::model::{Generation, Lsn};
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
    New(Generation, &'static str),
}

/// Somebody has altered the publication, or taken a table out, whatever it is like now.
pub(crate) const REPUBLISHED: &str =
    "somebody has altered its publication: what was changed meanwhile may not have been sent";

pub(crate) fn decide_history(state: &SourceRow, found: &Found<'_>) -> History {
    let breaks = [
        (state.generation == Generation(0), "nothing was ever replicated from it"),
        (found.slot_created, "the slot is new"),
        (state.system_identifier.is_empty(), "what happened before it is not whole (the log says why)"),
        (was_altered(&state.publication, found.publication), REPUBLISHED),
        (state.system_identifier != found.system_identifier, "the source is another server"),
        // Also where the slot was carried over and every checkpoint lies before the promotion: a user who was read from the
        // old primary is ahead of the checkpoint, and what was read may be among what the promotion has lost.
        (state.timeline != found.timeline, "the source was promoted: its timeline is another one"),
        (found.confirmed > state.confirmed, "somebody else has moved the slot on"),
        (state.confirmed > found.flushed, "the source was restored to an older point"),
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
        let check = |state: SourceRow, found: Found<'_>, word: &str| match decide_history(&state, &found) {
            History::New(generation, reason) => {
                assert_eq!(generation.0, state.generation.0 + 1);
                assert!(reason.contains(word), "{reason}");
            }
            same => panic!("{same:?}"),
        };
        check(SourceRow { generation: Generation(0), ..state() }, FOUND, "nothing");
        check(state(), Found { slot_created: true, ..FOUND }, "slot is new");
        check(state(), Found { system_identifier: "8", ..FOUND }, "another server");
        check(state(), Found { timeline: 2, ..FOUND }, "promoted");
        check(state(), Found { confirmed: Lsn(101), ..FOUND }, "moved the slot");
        check(state(), Found { confirmed: Lsn(50), flushed: Lsn(99), ..FOUND }, "restored");
        check(SourceRow { system_identifier: String::new(), ..state() }, FOUND, "not whole");
        check(SourceRow { publication: "1:2 3:5 of auth.users".into(), ..state() }, FOUND, "altered its publication");
        for same in ["", FOUND.publication, "1:2 3:4 5:6 of auth.users auth.emails"] {
            let known = SourceRow { publication: same.into(), ..state() };
            assert_eq!(decide_history(&known, &FOUND), History::Same(Generation(3)), "{same}");
        }
    }
}
