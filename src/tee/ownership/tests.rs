//! Positions and topics of this installation, of others, and of programs that changed them.

use super::super::positions::{PartitionEnd, PositionRecord};
use super::*;
use crate::model::{CheckpointKey, Lsn};

fn owner(key: u8, slot: &str) -> Owner {
    Owner::new(slot, &CheckpointKey::new(&[key; 32]).unwrap())
}

fn stream(position: u64, system: &str) -> StreamPosition {
    StreamPosition { position: Lsn(position), system: system.into(), timeline: 1, generation: 2, split: None }
}

fn tenant(topic: &str) -> TenantPosition {
    TenantPosition { position: Lsn(5), topic: topic.into(), mapping: "m".into(), partial: false }
}

fn published(position: u64) -> TeePublished {
    TeePublished { position: Lsn(position), system: "7".into(), tenants: HashSet::from([TenantId::new("acme")]) }
}

/// The record as version 0.2.0 wrote it.
fn unsigned(record: PositionRecord) -> PositionRecord {
    let mut value: serde_json::Value = serde_json::from_str(record.value.as_ref().unwrap()).unwrap();
    let fields = value.as_object_mut().unwrap();
    fields.remove("installation");
    fields.remove("signature");
    PositionRecord { value: Some(value.to_string()), ..record }
}

/// What is known after these records: the stream's position and the reason for a restart, or what is foreign.
fn judged(records: Vec<PositionRecord>, published: Option<&TeePublished>) -> Result<Known, String> {
    let own = owner(1, "s");
    let mut positions = Positions::default();
    for record in records {
        positions.take(&own, record.key.as_bytes(), record.value.as_deref().map(str::as_bytes));
    }
    let own = Own { owner: &own, system: "7", published, topics: &["t"] };
    judge_positions(positions, &own).map_err(|Foreign(what)| what)
}

#[test]
fn positions_of_another_installation_are_refused() {
    let (own, other) = (owner(1, "s"), owner(2, "s"));
    let refused = |records, published: Option<&TeePublished>, expected: &str| {
        let what = judged(records, published).unwrap_err();
        assert!(what.contains(expected), "{what}");
    };
    refused(vec![stream(1, "7").record(&other)], None, &other.installation);
    refused(vec![stream(1, "8").record(&other)], Some(&published(1)), "system identifier 8");
    refused(vec![unsigned(stream(1, "8").record(&own))], None, "on another server (system identifier 8)");
    // A copy of the state on another server, while the original publishes or may publish.
    refused(vec![stream(9, "8").record(&own)], None, "a copy of this installation");
    let moved = TeePublished { system: "8".into(), ..published(8) };
    refused(vec![stream(9, "8").record(&own)], Some(&moved), "a copy of this installation");
    // Another slot of the same server, with the same topics.
    let acme = TenantId::new("acme");
    refused(
        vec![TenantPosition::record(&owner(2, "z"), &acme, Some(&tenant("t")))],
        None,
        "topic t belongs to another",
    );
    let old = unsigned(TenantPosition::record(&owner(2, "z"), &acme, Some(&tenant("t"))));
    refused(vec![old], None, "slot z");
}

#[test]
fn the_states_record_wins_over_the_positions_topic() {
    let own = owner(1, "s");
    let check = |records, published: Option<TeePublished>, position: Option<u64>, why: Option<TeeRestart>| {
        let known = judged(records, published.as_ref()).unwrap();
        assert_eq!((known.stream.map(|stream| stream.position.0), known.restart), (position, why));
    };
    let sealed = || stream(9, "7").record(&own);
    let altered = |from: &str, to: &str| {
        let record = sealed();
        PositionRecord { value: record.value.map(|value| value.replace(from, to)), ..record }
    };
    check(vec![], None, None, None);
    check(vec![sealed()], None, Some(9), None);
    check(vec![sealed()], Some(published(9)), Some(9), None);
    check(vec![sealed()], Some(published(8)), Some(9), None);
    check(vec![unsigned(sealed())], None, Some(9), None);
    check(vec![], Some(published(9)), None, Some(TeeRestart::NoPosition));
    check(vec![sealed()], Some(published(10)), Some(9), Some(TeeRestart::PositionOlder));
    for forged in [unsigned(sealed()), altered("0/9", "FF/9"), altered("\"generation\":2", "\"generation\":3")] {
        check(vec![forged], Some(published(9)), None, Some(TeeRestart::PositionAltered));
    }
    for unreadable in ["no JSON", "{}", &"9".repeat(3_000_000)] {
        let record = PositionRecord { value: Some(unreadable.to_owned()), ..sealed() };
        check(vec![record], Some(published(9)), None, Some(TeeRestart::PositionAltered));
    }
    // The source moved to another server.
    let moved = TeePublished { system: "8".into(), ..published(9) };
    check(vec![stream(9, "8").record(&own)], Some(moved), Some(9), None);
}

#[test]
fn a_tenants_forged_position_is_not_believed() {
    let own = owner(1, "s");
    let acme = TenantId::new("acme");
    let record = TenantPosition::record(&own, &acme, Some(&tenant("t")));
    let forged =
        PositionRecord { value: record.value.clone().map(|value| value.replace("0/5", "F/5")), ..record.clone() };
    let positions = |record| judged(vec![stream(9, "7").record(&own), record], Some(&published(9))).unwrap();
    assert_eq!(positions(record.clone()).tenants, HashMap::from([(acme.clone(), tenant("t"))]));
    for forged in [forged, unsigned(record)] {
        let known = positions(forged);
        assert!(known.tenants.is_empty() && known.altered == [acme.clone()] && known.published.contains(&acme));
    }
}

#[test]
fn a_topic_is_compared_with_its_last_records() {
    let own = owner(1, "s");
    let other = owner(2, "s");
    let mark = |offset, installation: Option<&Owner>, id: &str| Mark {
        offset,
        installation: installation.map(|owner| owner.installation.clone()),
        id: Some(id.to_owned()),
        at: None,
    };
    let view = |end, records: &[Mark]| TopicView::from([(0, PartitionView { end, records: records.to_vec() })]);
    let ends = |next, id: Option<&str>| TopicEnds {
        ends: BTreeMap::from([(0, PartitionEnd { next, id: id.map(str::to_owned) })]),
    };
    let judge = |view: &TopicView, known: Option<&TopicEnds>, is_known| {
        judge_topic("t", view, known, is_known, &own).map_err(|Foreign(what)| what)
    };
    let (ours, theirs, old) = (mark(4, Some(&own), "s/1/1"), mark(5, Some(&other), "s/1/1"), mark(5, None, "s/1/2"));
    let five = ends(5, Some("s/1/1"));
    assert_eq!(judge(&view(0, &[]), None, false), Ok(Holds::Everything));
    assert_eq!(judge(&view(6, std::slice::from_ref(&ours)), Some(&five), true), Ok(Holds::Everything));
    // The record was removed by compaction.
    assert_eq!(judge(&view(6, &[]), Some(&five), true), Ok(Holds::Everything));
    for lost in [view(4, &[]), view(0, &[]), TopicView::new(), view(9, &[mark(4, Some(&own), "s/9/9")])] {
        assert_eq!(judge(&lost, Some(&five), true), Ok(Holds::NotEverything), "{lost:?}");
    }
    assert_eq!(judge(&view(9, &[Mark { offset: 4, ..Mark::default() }]), Some(&five), true), Ok(Holds::NotEverything));
    assert!(
        judge(&view(7, &[ours.clone(), theirs.clone()]), Some(&five), true).unwrap_err().contains(&other.installation)
    );
    assert!(judge(&view(7, std::slice::from_ref(&theirs)), None, true).is_err());
    // Older records of another installation, which this one has taken notice of.
    assert_eq!(judge(&view(7, &[theirs]), Some(&ends(6, None)), true), Ok(Holds::Everything));
    assert_eq!(judge(&view(7, std::slice::from_ref(&old)), None, true), Ok(Holds::Everything));
    assert!(judge(&view(7, &[old]), None, false).is_err());
    assert!(judge(&view(7, &[mark(5, None, "z/1/2")]), None, true).is_err());
    assert!(judge(&view(7, &[Mark { offset: 6, ..Mark::default() }]), None, false).is_err());
}
