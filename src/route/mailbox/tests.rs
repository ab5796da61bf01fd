//! The mailbox between its two tasks.

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

fn push(mailbox: &Mailbox, id: &str, commit: u64, end: Option<u64>) -> Pushed {
    mailbox.push(
        &mut vec![upsert(id, commit as i64)],
        Lsn(commit),
        Xid(commit as u32),
        Timestamp(commit as i64),
        end.map(Lsn),
        false,
    )
}

#[test]
fn a_closed_mailbox_drops_changes_and_an_interrupted_one_returns_the_reason() {
    let mailbox = Mailbox::new(1000, Arc::new(Memory::new(10_000)));
    assert_eq!(push(&mailbox, "a", 10, Some(11)), Pushed::Dropped);
    mailbox.open();
    push(&mailbox, "a", 10, Some(11));
    mailbox.interrupt(RestartSignal::Truncated);
    assert!(matches!(mailbox.try_next(), Some(Err(RestartSignal::Truncated))));
    assert_eq!(push(&mailbox, "a", 20, Some(21)), Pushed::Dropped);
    mailbox.open();
    assert!(mailbox.try_next().is_none());
}

#[tokio::test]
async fn a_change_or_an_interrupt_arrives() {
    use futures_util::FutureExt;
    let mailbox = Mailbox::new(1000, Arc::new(Memory::new(10_000)));
    mailbox.open();
    assert!(mailbox.arrived().now_or_never().is_none());
    push(&mailbox, "a", 10, Some(11));
    mailbox.arrived().await;
    assert!(mailbox.try_next().is_some());
    assert!(mailbox.arrived().now_or_never().is_none(), "it was taken");
    mailbox.interrupt(RestartSignal::Truncated);
    mailbox.arrived().await;
}

#[test]
fn mailboxes_share_the_common_memory_and_release_it() {
    let memory = Arc::new(Memory::new(1500));
    let [a, b] = [(); 2].map(|()| Mailbox::new(10_000, memory.clone()));
    for mailbox in [&a, &b] {
        mailbox.open();
    }
    for n in 0..3 {
        push(&a, &n.to_string(), 10 + n, Some(11 + n));
    }
    assert!(!memory.is_over() && memory.waiting() == a.bytes());
    for n in 0..3 {
        push(&b, &n.to_string(), 10 + n, Some(11 + n));
    }
    assert!(memory.is_over() && !a.over_budget() && !b.over_budget());
    let batch = a.try_next().unwrap().unwrap();
    assert_eq!(memory.waiting(), a.bytes() + b.bytes());
    a.finish(batch.bytes);
    assert!(!memory.is_over());
    b.interrupt(RestartSignal::OverBudget);
    assert_eq!(memory.waiting(), 0);
    b.open();
    push(&b, "x", 50, Some(51));
    drop(b);
    assert_eq!(memory.waiting(), 0);
}

/// A day of logins that change what a sleeping target holds, on a clock of our own.
#[tokio::test(start_paused = true)]
async fn updates_let_a_target_sleep_and_a_sign_up_wakes_it_at_once() {
    const MINUTE: Duration = Duration::from_secs(60);
    let mailbox = Arc::new(Mailbox::new(1 << 20, Arc::new(Memory::new(1 << 20))));
    mailbox.open();
    let day = Instant::now() + 24 * 60 * MINUTE;
    let logins = tokio::spawn({
        let mailbox = mailbox.clone();
        async move {
            for n in 0.. {
                tokio::time::sleep(MINUTE / 10).await;
                push(&mailbox, &(n % 50).to_string(), 10 + n, Some(11 + n));
            }
        }
    });
    let mut wakes = 0;
    while tokio::time::timeout_at(day, mailbox.wait_until_wake_due(5 * MINUTE)).await.is_ok() {
        wakes += 1;
        while let Some(batch) = mailbox.try_next() {
            mailbox.finish(batch.unwrap().bytes);
        }
    }
    logins.abort();
    assert!((280..=288).contains(&wakes), "{wakes}");

    push(&mailbox, "login", 1 << 40, Some(1 << 41));
    let before = Instant::now();
    let sign_up = &mut vec![upsert("new", 1)];
    mailbox.push(sign_up, Lsn(1 << 42), Xid(1), Timestamp(0), Some(Lsn(1 << 43)), true);
    mailbox.wait_until_wake_due(5 * MINUTE).await;
    assert_eq!(before, Instant::now());
}

/// An event at 20 of the stream, and a snapshot at another position.
#[test]
fn an_event_restarts_a_joining_tenant_only_if_its_snapshot_is_older() {
    let joining = || {
        let mailbox = Mailbox::new(1000, Arc::new(Memory::new(10_000)));
        mailbox.open_to_join();
        mailbox
    };
    let why = RestartSignal::Unattributed;
    for (snapshot, starts_over) in [(10, true), (20, true), (21, false)] {
        let known_before = joining();
        assert!(!known_before.snapshot_taken(Lsn(snapshot)));
        assert_eq!(known_before.interrupt_from(Lsn(20), why), starts_over);
        let known_after = joining();
        assert!(!known_after.interrupt_from(Lsn(20), why));
        assert_eq!(known_after.snapshot_taken(Lsn(snapshot)), starts_over);
        for mailbox in [known_before, known_after] {
            assert_eq!(mailbox.is_interrupted(), starts_over, "snapshot at {snapshot}");
            // The second event of a transaction changes nothing.
            assert!(!mailbox.interrupt_from(Lsn(20), why));
        }
    }
    let following = joining();
    following.discard_applied(Lsn(21));
    assert!(!following.interrupt_from(Lsn(20), why) && following.interrupt_from(Lsn(21), why));
}
