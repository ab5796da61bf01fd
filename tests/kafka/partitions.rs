//! `partition_by: tenant`: all changes of a tenant are in one partition, in the order of their commits, and headers say where the
//! tenant's part of each transaction ends.

use crate::bed::TeeBed;
use crate::broker::Broker;
use crate::consumer::{Message, arrive};
use crate::support::process::Process;
use std::collections::{BTreeMap, BTreeSet};

/// Users of each tenant in a transaction.
const USERS: usize = 3;

fn number(lsn: &str) -> u64 {
    let (high, low) = lsn.split_once('/').unwrap();
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}

/// One transaction that changes users of both tenants in turn.
async fn transact(bed: &TeeBed, round: usize) {
    let users = (0..USERS).map(|user| {
        format!("INSERT INTO auth.users (id, org) VALUES ('{round}-{user}', 'acme'), ('{round}-{user}', 'globex');")
    });
    bed.auth(&users.collect::<String>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_changes_of_a_tenant_are_in_order_in_one_partition_and_each_part_has_an_end() {
    let broker = Broker::shared();
    // Both tenants have partition 0.
    let kafka = "topic: parts.users, partition_by: tenant, partitions: 1";
    let bed = TeeBed::start(broker, "parts", kafka, "").await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('first', 'acme'), ('first', 'globex')").await;
    let process = Process::start(&bed.file);
    arrive(broker, "parts.users", 2);
    bed.tee_is("following").await;
    let rounds = 30;
    for round in 0..rounds / 2 {
        transact(&bed, round).await;
    }
    process.kill();
    for round in rounds / 2..rounds {
        transact(&bed, round).await;
    }
    let process = Process::start(&bed.file);
    let messages = arrive(broker, "parts.users", 2 + rounds * USERS * 2);
    assert!(process.stop().await.success());

    let mut by_tenant: BTreeMap<&str, Vec<&Message>> = BTreeMap::new();
    for message in &messages {
        assert_eq!(message.headers["ce_generation"], "1");
        by_tenant.entry(&message.headers["ce_tenant"]).or_default().push(message);
    }
    let mut ends: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for (tenant, messages) in by_tenant {
        let partitions: BTreeSet<i32> = messages.iter().map(|message| message.partition).collect();
        assert_eq!(partitions.len(), 1, "{tenant}: {partitions:?}");
        let read = messages[0];
        assert!(read.op() == "r" && ["ce_position", "ce_last"].iter().all(|name| !read.headers.contains_key(*name)));
        let mut reached = 0;
        let parts: Vec<_> =
            messages[1..].chunk_by(|a, b| a.headers["ce_position"] == b.headers["ce_position"]).collect();
        assert_eq!(parts.len(), rounds, "{tenant}");
        for (round, part) in parts.into_iter().enumerate() {
            let ids: Vec<&str> = part.iter().map(|message| message.id()).collect();
            assert_eq!(ids, (0..USERS).map(|user| format!("{round}-{user}")).collect::<Vec<_>>(), "{tenant}");
            let marked: Vec<_> = part.iter().map(|message| message.headers.get("ce_last")).collect();
            assert!(marked[..USERS - 1].iter().all(Option::is_none), "{tenant}: {marked:?}");
            let (position, end) = (number(&part[0].headers["ce_position"]), number(marked[USERS - 1].unwrap()));
            assert!(reached <= position && position < end, "{tenant}: {reached} {position} {end}");
            reached = end;
            ends.entry(tenant).or_default().push((position, end));
        }
    }
    assert_eq!(ends["acme"], ends["globex"]);

    let mut transactions: BTreeMap<(i32, &str), Vec<&Message>> = BTreeMap::new();
    for message in &messages {
        if let Some(position) = message.headers.get("ce_position") {
            transactions.entry((message.partition, position)).or_default().push(message);
        }
    }
    for (place, messages) in transactions {
        let (last, others) = messages.split_last().unwrap();
        assert!(others.iter().all(|message| !message.headers.contains_key("ce_commit")), "{place:?}");
        assert_eq!(last.headers.get("ce_commit"), last.headers.get("ce_last"), "{place:?}");
    }
}

/// The messages of one transaction do not fit into a batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_is_complete_and_in_order() {
    let broker = Broker::shared();
    let kafka = "topic: large.users, partition_by: tenant, partitions: 3";
    let bed = TeeBed::start(broker, "large", kafka, "").await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    let users = 6000;
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, first_name) SELECT lpad(n::text, 6, '0'), org, repeat('x', 1000) \
         FROM generate_series(1, {users}) n, (VALUES ('acme'), ('globex')) AS o(org)"
    ))
    .await;
    let messages = arrive(broker, "large.users", users * 2);
    assert!(process.stop().await.success());
    for tenant in ["acme", "globex"] {
        let ids: Vec<&str> = messages
            .iter()
            .filter(|message| message.headers["ce_tenant"] == tenant)
            .map(|message| message.id())
            .collect();
        assert!(ids.len() == users && ids.is_sorted(), "{tenant}: {}", ids.len());
    }
    let marked: Vec<usize> =
        (0..messages.len()).filter(|place| messages[*place].headers.contains_key("ce_last")).collect();
    let last = |place: &usize| messages[*place].id() == format!("{users:06}");
    assert!(marked.len() <= 2 && marked.iter().all(last), "{marked:?}");
}

/// The last message of a part is too large for the topic: the one before it carries the mark.
#[tokio::test(flavor = "multi_thread")]
async fn the_mark_is_on_the_last_message_that_fits() {
    let broker = Broker::shared();
    let kafka = "topic: mark.users, partition_by: tenant, partitions: 2";
    let bed = TeeBed::start(broker, "mark", kafka, "").await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    bed.auth(
        "INSERT INTO auth.users (id, org) VALUES ('1', 'acme'); \
         INSERT INTO auth.users (id, org) VALUES ('2', 'globex'); \
         INSERT INTO auth.users (id, org, first_name) VALUES ('3', 'acme', repeat('x', 400000)); \
         INSERT INTO auth.users (id, org, first_name) VALUES ('4', 'globex', repeat('x', 400000))",
    )
    .await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('5', 'acme')").await;
    let messages = arrive(broker, "mark.users", 3);
    assert!(process.stop().await.success());
    let mut shown: Vec<_> =
        messages.iter().map(|message| (message.id(), message.headers.contains_key("ce_last"))).collect();
    shown.sort_unstable();
    assert_eq!(shown, [("1", true), ("2", true), ("5", true)]);
}
