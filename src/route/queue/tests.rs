//! The queue as its two sides use it.

use super::*;
use crate::model::{Timestamp, User};

fn upsert(id: &str, version: i64) -> Change {
    Change::Upsert(User {
        id: id.into(),
        raw_json: format!("{{\"v\":{version}}}"),
        name: None,
        email: None,
        created_at: None,
        updated_at: Some(Timestamp(version)),
        deleted_at: None,
        updated_at_derived: false,
    })
}

fn open() -> Queue {
    let mut queue = Queue::default();
    queue.open();
    queue.gather(false);
    queue
}

fn push(queue: &mut Queue, id: &str, commit: u64, end: Option<u64>) -> Pushed {
    queue.push(
        &mut vec![upsert(id, commit as i64)],
        Lsn(commit),
        Xid(commit as u32),
        Timestamp(commit as i64),
        end.map(Lsn),
    )
}

/// Ids with their commit positions, and the end.
type Taken = (Vec<(String, u64)>, Option<u64>);

fn taken(queue: &mut Queue) -> Option<Taken> {
    let batch = queue.take()?;
    let mut entries: Vec<_> = batch.entries.iter().map(|(id, e)| (id.to_string(), e.commit_lsn.0)).collect();
    entries.sort();
    Some((entries, batch.end.map(|end| end.0)))
}

fn row(id: &str, commit: u64) -> (String, u64) {
    (id.to_owned(), commit)
}

#[test]
fn transactions_gather_into_one_batch_with_the_last_version_of_each_user() {
    let mut queue = open();
    push(&mut queue, "a", 10, Some(11));
    push(&mut queue, "b", 20, Some(21));
    push(&mut queue, "a", 30, Some(31));
    assert_eq!(taken(&mut queue), Some((vec![row("a", 30), row("b", 20)], Some(31))));
    assert_eq!(taken(&mut queue), None);
}

#[test]
fn chunks_never_join_a_finished_transaction_but_the_last_chunk_takes_later_ones() {
    let mut queue = open();
    push(&mut queue, "a", 10, Some(11));
    push(&mut queue, "b", 20, None);
    push(&mut queue, "c", 20, None);
    assert_eq!(taken(&mut queue), Some((vec![row("a", 10)], Some(11))));
    push(&mut queue, "d", 20, Some(21));
    push(&mut queue, "e", 30, Some(31));
    assert_eq!(taken(&mut queue), Some((vec![row("b", 20), row("c", 20), row("d", 20), row("e", 30)], Some(31))));
}

#[test]
fn changes_that_the_target_holds_are_dropped() {
    let mut queue = open();
    push(&mut queue, "a", 10, Some(11));
    push(&mut queue, "b", 20, Some(21));
    assert!(!queue.is_primed());
    assert_eq!(queue.discard_applied(Lsn(11)), [UserId::from("a")]);
    assert!(queue.is_primed());
    assert_eq!(taken(&mut queue), Some((vec![row("b", 20)], Some(21))));
    assert_eq!(push(&mut queue, "a", 10, Some(11)), Pushed::Dropped);
    assert_eq!(push(&mut queue, "c", 11, Some(12)), Pushed::Queued);
    queue.discard_applied(Lsn(12));
    assert_eq!(taken(&mut queue), None);
}

#[test]
fn bytes_count_until_the_batch_is_finished() {
    let mut queue = open();
    for n in 0..10 {
        push(&mut queue, &format!("user {n}"), 10 + n, Some(11 + n));
    }
    let full = queue.bytes();
    assert!(full > 1000);
    push(&mut queue, "user 0", 50, Some(51));
    assert_eq!(queue.bytes(), full, "a newer version of the same size adds nothing");
    let batch = queue.take().unwrap();
    assert_eq!(queue.bytes(), full);
    queue.finish(batch.bytes);
    assert_eq!(queue.bytes(), 0);
}

#[test]
fn a_batch_has_a_maximum_number_of_users() {
    let mut queue = open();
    for n in 0..BATCH_USERS as u64 + 1 {
        assert_eq!(queue.next_is_full(), n >= BATCH_USERS as u64);
        push(&mut queue, &n.to_string(), 10 + n, Some(11 + n));
    }
    assert_eq!(taken(&mut queue).map(|(rows, _)| rows.len()), Some(BATCH_USERS));
    assert_eq!(taken(&mut queue).map(|(rows, _)| rows.len()), Some(1));
}

#[test]
fn without_a_batch_in_flight_everything_becomes_one_batch_of_last_versions() {
    let mut queue = open();
    for n in 0..2 * BATCH_USERS as u64 {
        push(&mut queue, &n.to_string(), 10 + n, Some(11 + n));
    }
    let before = queue.bytes();
    queue.gather(true);
    assert_eq!(queue.bytes(), before);
    for n in 0..2 * BATCH_USERS as u64 {
        push(&mut queue, &n.to_string(), 10_000 + n, Some(10_001 + n));
    }
    assert!(queue.bytes() < before + before / 10, "{} of {before}", queue.bytes());
    // A transaction that is still arriving stays apart from the whole ones, and takes in what follows it.
    push(&mut queue, "x", 20_000, None);
    push(&mut queue, "x", 20_000, Some(20_001));
    push(&mut queue, "y", 20_002, Some(20_003));
    let (rows, end) = taken(&mut queue).unwrap();
    assert_eq!((rows.len(), end), (2 * BATCH_USERS, Some(10_000 + 2 * BATCH_USERS as u64)));
    assert!(rows.iter().all(|(_, commit)| *commit >= 10_000));
    assert_eq!(taken(&mut queue), Some((vec![row("x", 20_000), row("y", 20_002)], Some(20_003))));
}
