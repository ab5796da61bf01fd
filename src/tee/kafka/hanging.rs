//! Ends a transaction that the brokers left open although it is over.
//!
//! A coordinator that is killed while it ends a transaction, and again after its restart, can record the transaction as ended
//! without having written its markers. No timeout will end it then, and consumers of committed records stop in front of it. The
//! next marker from the same producer ends it.

use super::client::Producer;
use super::failure::Failure;
use super::headers::{INSTALLATION_HEADER, header};
use super::takeover::{NO_KEY, commit, deliver};
use super::topic_reader::{POLL_INTERVAL, Reader};
use crate::config::Kafka;
use crate::model::TenantId;
use crate::tee::{Owner, TenantPosition, is_of_slot};
use rdkafka::message::{BorrowedMessage, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use std::collections::HashSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Time limit for the markers of the producer that was fenced.
const MARKER_TIMEOUT: Duration = Duration::from_secs(5);
/// What a failure names.
const ENDING: &str = "ending an open transaction";
/// Time limit for the abort.
const ABORT_TIMEOUT: Duration = Duration::from_secs(30);

/// Ends the transactions of this installation that are still open after [`fence`](super::fence) in those of its topics that existed.
/// Transactions of others stay as they are. Blocks. Returns whether there were any.
///
/// It is not known whether all records of such a transaction have arrived, nor whether it was committed elsewhere. So the
/// tenants' positions are removed first, and each tenant takes a snapshot. In the other topics the transaction is aborted.
///
/// # Errors
/// Kafka cannot be reached, or refuses the records. The next session tries again.
pub(crate) fn end_hanging(
    producer: &Producer,
    kafka: &Kafka,
    owner: &Owner,
    topics: &[&str],
    tenants: &HashSet<TenantId>,
) -> Result<bool, Failure> {
    let is_position = |topic: &str| topic == kafka.positions_topic;
    let is_own = |message: &BorrowedMessage<'_>| match kafka.own_topics().any(|topic| topic == message.topic()) {
        true => message.key().is_some_and(|key| is_of_slot(key, &owner.slot)),
        false => header(message, INSTALLATION_HEADER).as_ref() == Some(&owner.installation),
    };
    let reader = Reader::new(kafka)?;
    let partitions = reader.partitions_of(topics)?;
    let deadline = Instant::now() + MARKER_TIMEOUT;
    let open = loop {
        let open = reader.open_transactions(&partitions, is_own)?;
        if open.is_empty() || Instant::now() > deadline {
            break open;
        }
        sleep(POLL_INTERVAL);
    };
    if open.is_empty() {
        return Ok(false);
    }
    let removals: Vec<_> = tenants.iter().map(|tenant| TenantPosition::record(owner, tenant, None)).collect();
    let (in_positions, in_others): (Vec<_>, Vec<_>) = open.into_iter().partition(|(topic, _)| is_position(topic));
    let in_positions: Vec<i32> = in_positions.into_iter().map(|(_, partition)| partition).collect();
    commit(producer, kafka, &removals, &in_positions)?;
    if !in_others.is_empty() {
        abort(producer, owner, &in_others)?;
    }
    Ok(true)
}

/// Aborts a transaction with a record in each of these partitions.
fn abort(producer: &Producer, owner: &Owner, partitions: &[(&str, i32)]) -> Result<(), Failure> {
    let failed = |error| producer.context().failure(ENDING, &error);
    producer.begin_transaction().map_err(failed)?;
    for (topic, partition) in partitions {
        let own = Header { key: INSTALLATION_HEADER, value: Some(&owner.installation) };
        let record = BaseRecord::<str, str>::to(topic).partition(*partition).key(NO_KEY);
        let sent = producer.send(record.headers(OwnedHeaders::new().insert(own)));
        sent.map_err(|(error, _)| failed(error))?;
    }
    deliver(producer, ENDING)?;
    producer.abort_transaction(ABORT_TIMEOUT).map_err(failed)
}
