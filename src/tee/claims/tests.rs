//! Claims of other installations are read, judged by their age, and ended by a takeover.

use super::*;
use crate::model::CheckpointKey;
use crate::tee::owner::Owner;
use crate::tee::positions::{Positions, Presence};
use crate::tee::{Mark, PartitionView, judge_positions};

fn owner(byte: u8, slot: &str) -> Owner {
    Owner::new(slot, &CheckpointKey::new(&[byte; 32]).unwrap())
}

fn stream(position: u64, system: &str) -> StreamPosition {
    StreamPosition { position: Lsn(position), system: system.into(), timeline: 1, generation: 1, split: None }
}

fn claims(own: &Own<'_>, records: &[(PositionRecord, i64)]) -> Claims {
    let mut claims = Claims::default();
    for (record, at) in records {
        claims.take(own, record.key.as_bytes(), record.value.as_deref().map(str::as_bytes), Some(*at));
    }
    claims
}

fn tenant(owner: &Owner, topic: &str) -> PositionRecord {
    let position = TenantPosition { position: Lsn(5), topic: topic.into(), mapping: "m".into(), partial: false };
    TenantPosition::record(owner, &TenantId::new("acme"), Some(&position))
}

#[test]
fn an_installation_may_run_until_it_says_that_it_stops_or_is_silent() {
    let own = Own { owner: &owner(1, "s"), system: "7", published: None, topics: &["t"] };
    let silent = SILENT_AFTER.as_millis() as i64;
    let check = |records: &[(PositionRecord, i64)], now: i64, expected: &[bool]| {
        let writers = claims(&own, records).writers(&own, now);
        let may_run: Vec<bool> = writers.iter().map(|writer| writer.may_run).collect();
        assert_eq!(may_run, expected, "{writers:?}");
    };
    for other in [owner(2, "s"), owner(2, "another")] {
        let wrote = [(stream(9, "8").record(&other), 0), (tenant(&other, "t"), 0)];
        check(&wrote, silent - 1, &[true]);
        check(&wrote, silent, &[false]);
        let present = [&wrote[..], &[(Presence::record(&other, true), 500)]].concat();
        check(&present, silent + 499, &[true]);
        let stopped = [&present[..], &[(Presence::record(&other, false), 600)]].concat();
        check(&stopped, 601, &[false]);
        let again = [&stopped[..], &[(Presence::record(&other, true), 700)]].concat();
        check(&again, 701, &[true]);
    }
    // Neither its own records nor those about other topics.
    check(&[(stream(9, "7").record(own.owner), 0), (tenant(own.owner, "t"), 0)], 1, &[]);
    check(&[(tenant(&owner(2, "another"), "else"), 0)], 1, &[]);
    // A copy of this installation on another server.
    check(&[(stream(9, "8").record(own.owner), 0)], 1, &[true]);
}

#[test]
fn records_in_a_topic_count_unless_the_positions_topic_knows_their_writer() {
    let own = Own { owner: &owner(1, "s"), system: "7", published: None, topics: &["t"] };
    let other = owner(2, "another");
    let mark =
        Mark { offset: 4, installation: Some(other.installation.clone()), id: Some("another/1/1".into()), at: Some(0) };
    let view = TopicView::from([(0, PartitionView { end: 6, records: vec![mark] })]);
    let with = |records: &[(PositionRecord, i64)]| Claims {
        topics: HashMap::from([("t".to_owned(), view.clone())]),
        ..claims(&own, records)
    };
    let may_run = |claims: Claims, now| claims.writers(&own, now).iter().any(|writer| writer.may_run);
    assert!(may_run(with(&[]), 1));
    assert!(!may_run(with(&[]), SILENT_AFTER.as_millis() as i64));
    assert!(!may_run(with(&[(tenant(&other, "t"), 0), (Presence::record(&other, false), 0)]), 1));
}

#[test]
fn after_the_takeover_nothing_is_foreign_and_each_tenant_takes_a_snapshot() {
    let own = Own { owner: &owner(1, "s"), system: "7", published: None, topics: &["t"] };
    let acme = TenantId::new("acme");
    for other in [owner(2, "s"), owner(2, "another")] {
        let records = [(stream(9, "8").record(&other), 0), (tenant(&other, "t"), 0)];
        let mut positions = Positions::default();
        let mut take = |record: &PositionRecord| {
            positions.take(own.owner, record.key.as_bytes(), record.value.as_deref().map(str::as_bytes));
        };
        records.iter().for_each(|(record, _)| take(record));
        let view = TopicView::from([(0, PartitionView { end: 6, records: Vec::new() })]);
        let found = Claims { topics: HashMap::from([("t".to_owned(), view)]), ..claims(&own, &records) };
        found.take_over(&own, &[(&acme, "t")]).iter().for_each(take);
        let known = judge_positions(positions, &own).unwrap();
        assert_eq!((known.stream, known.restart), (None, None));
        assert_eq!(known.tenants[&acme].mapping, "");
        assert_eq!(known.topics["t"].ends[&0].next, 6);
    }
}
