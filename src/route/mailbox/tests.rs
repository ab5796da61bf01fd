//! The mailbox as the two tasks beside it see it.

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

fn open() -> Mailbox {
    let mailbox = Mailbox::new(1000);
    mailbox.open();
    mailbox
}

fn push(mailbox: &Mailbox, id: &str, commit: u64, end: Option<u64>) -> Pushed {
    mailbox.push(&mut vec![upsert(id, commit as i64)], Lsn(commit), Xid(commit as u32), end.map(Lsn))
}

/// Ids with their commit positions, and the end.
type Taken = (Vec<(String, u64)>, Option<u64>);

fn taken(mailbox: &Mailbox) -> Option<Taken> {
    let batch = mailbox.try_next()?.expect("not interrupted");
    let mut entries: Vec<_> = batch.entries.iter().map(|(id, e)| (id.to_string(), e.commit_lsn.0)).collect();
    entries.sort();
    Some((entries, batch.end.map(|end| end.0)))
}

fn row(id: &str, commit: u64) -> (String, u64) {
    (id.to_owned(), commit)
}

#[test]
fn transactions_gather_into_one_batch_with_the_last_version_of_each_user() {
    let mailbox = open();
    push(&mailbox, "a", 10, Some(11));
    push(&mailbox, "b", 20, Some(21));
    push(&mailbox, "a", 30, Some(31));
    assert_eq!(taken(&mailbox), Some((vec![row("a", 30), row("b", 20)], Some(31))));
    assert_eq!(taken(&mailbox), None);
}

#[test]
fn chunks_never_join_a_finished_transaction_but_the_last_one_takes_in_what_follows() {
    let mailbox = open();
    push(&mailbox, "a", 10, Some(11));
    push(&mailbox, "b", 20, None);
    push(&mailbox, "c", 20, None);
    assert_eq!(taken(&mailbox), Some((vec![row("a", 10)], Some(11))));
    push(&mailbox, "d", 20, Some(21));
    push(&mailbox, "e", 30, Some(31));
    assert_eq!(taken(&mailbox), Some((vec![row("b", 20), row("c", 20), row("d", 20), row("e", 30)], Some(31))));
}

#[test]
fn what_the_target_holds_is_dropped_before_and_after_it_is_known() {
    let mailbox = open();
    push(&mailbox, "a", 10, Some(11));
    push(&mailbox, "b", 20, Some(21));
    assert!(!mailbox.is_settled());
    assert_eq!(mailbox.hold(Lsn(11)), [UserId::from("a")]);
    assert!(mailbox.is_settled());
    assert_eq!(taken(&mailbox), Some((vec![row("b", 20)], Some(21))));
    assert_eq!(push(&mailbox, "a", 10, Some(11)), Pushed::Dropped);
    assert_eq!(push(&mailbox, "c", 11, Some(12)), Pushed::Queued);
    mailbox.hold(Lsn(12));
    assert_eq!(taken(&mailbox), None);
}

#[test]
fn a_closed_mailbox_drops_and_an_interrupted_one_says_why() {
    let mailbox = Mailbox::new(1000);
    assert_eq!(push(&mailbox, "a", 10, Some(11)), Pushed::Dropped);
    mailbox.open();
    push(&mailbox, "a", 10, Some(11));
    mailbox.interrupt(Interrupt::Truncated);
    assert!(matches!(mailbox.try_next(), Some(Err(Interrupt::Truncated))));
    assert_eq!(push(&mailbox, "a", 20, Some(21)), Pushed::Dropped);
    mailbox.open();
    assert!(mailbox.try_next().is_none());
}

#[test]
fn bytes_count_until_the_batch_is_finished() {
    let mailbox = open();
    for n in 0..10 {
        push(&mailbox, &format!("user {n}"), 10 + n, Some(11 + n));
    }
    let full = mailbox.bytes();
    assert!(full > 1000 && mailbox.over_budget());
    push(&mailbox, "user 0", 50, Some(51));
    assert_eq!(mailbox.bytes(), full, "a newer version of the same size adds nothing");
    let batch = mailbox.try_next().unwrap().unwrap();
    assert_eq!(mailbox.bytes(), full);
    mailbox.finish(batch.bytes);
    assert_eq!((mailbox.bytes(), mailbox.finished()), (0, 1));
}

#[test]
fn a_batch_is_bounded_in_users() {
    let mailbox = open();
    for n in 0..BATCH_USERS as u64 + 1 {
        push(&mailbox, &n.to_string(), 10 + n, Some(11 + n));
    }
    assert_eq!(taken(&mailbox).map(|(rows, _)| rows.len()), Some(BATCH_USERS));
    assert_eq!(taken(&mailbox).map(|(rows, _)| rows.len()), Some(1));
}
