//! Rebuilds tenants from their partition: the last message of each user is the user's row.
//!
//! A first pass finds the offset of the last message of each user, and the position that this is the state of. A second pass
//! hands the rows to the targets, where they are staged and merged in one transaction, as those of a snapshot of the source.
//! Compaction may remove messages meanwhile: only those that a later one supersedes. If that is one of the rows, the tenant
//! tries again. Users that the publisher leaves out are not in the topic, but they are not gone: their rows stay as they are.

use crate::config::Kafka;
use crate::map::TenantRef;
use crate::model::{Change, Generation, Lsn, TenantIdx, User};
use crate::replicator::consumer::extent::{Extent, OwnMessage};
use crate::replicator::consumer::snapshot_index::SnapshotIndex;
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::replicator::session::topic_snapshots::{PublishedSnapshot, TopicSnapshots};
use crate::replicator::snapshotter::coordinator::{JoinRefusal, JoinRequest, SnapshotShare};
use crate::replicator::snapshotter::partition::{Partitioner, ScanMember};
use crate::snapshot::Interruption;
use crate::state::{LeftOutUser, StateError};
use crate::tee::kafka::{Failure, FoundInRange, PartitionStream, RangeReader, blocking, record_headers};
use crate::tee::{RecordContent, content, user_of_key};
use rdkafka::message::{BorrowedMessage, Message};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a rebuild waits for further tenants: those that come together share one pass.
const GATHER: Duration = Duration::from_millis(200);
/// Users on their way from the reading thread.
const USERS_IN_FLIGHT: usize = 256;

/// How long a rebuild waits for the rest of a transaction that is published in parts.
const OPEN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(90);

/// The tenants of a rebuild by their ids.
type Names = Arc<HashMap<String, TenantIdx>>;

/// The users of each tenant that the publisher leaves out, with the reasons.
type LeftOutUsers = HashMap<TenantIdx, HashMap<String, String>>;

/// A tenant that is being rebuilt.
struct Member {
    request: JoinRequest,
    snapshot: PublishedSnapshot,
}

/// Serves requests until every sender is dropped. A failed pass makes its tenants retry.
pub(crate) async fn serve(
    context: Arc<SessionContext>,
    kafka: Kafka,
    stream: Arc<PartitionStream>,
    snapshots: Arc<TopicSnapshots>,
    index: Arc<SnapshotIndex>,
    mut requests: mpsc::Receiver<JoinRequest>,
) -> Result<(), ServiceError> {
    let mut waiting: Vec<JoinRequest> = Vec::new();
    let mut reported = 0;
    loop {
        tokio::select! {
            request = requests.recv() => match request {
                Some(request) => waiting.push(request),
                None => return Ok(()),
            },
            () = snapshots.completed.notified() => {}
        }
        while let Ok(Some(next)) = timeout(GATHER, requests.recv()).await {
            waiting.push(next);
        }
        // The worker may have started over, or ended.
        waiting.retain(|request| !request.reply.is_closed());
        let mut members = Vec::new();
        for request in std::mem::take(&mut waiting) {
            // A tenant that was added since the session began is not known here.
            match index.of(&context.tenants.get(request.tenant).tenant.id) {
                Some(snapshot) => drop(snapshots.published(request.tenant, snapshot)),
                None => snapshots.withdrawn(request.tenant),
            }
            match snapshots.complete(request.tenant, context.generation) {
                Some(snapshot) => members.push(Member { request, snapshot }),
                // It waits until the publisher completes one.
                None => waiting.push(request),
            }
        }
        if waiting.len() > reported {
            tracing::info!(tenants = waiting.len(), "tenants wait for the publisher to complete their snapshots");
        }
        reported = waiting.len();
        if !members.is_empty() {
            rebuild(&context, &kafka, &stream, &snapshots, &index, members).await;
        }
    }
}

async fn rebuild(
    context: &Arc<SessionContext>,
    kafka: &Kafka,
    stream: &Arc<PartitionStream>,
    snapshots: &TopicSnapshots,
    index: &Arc<SnapshotIndex>,
    members: Vec<Member>,
) {
    let failed =
        |failure: &Failure| tracing::warn!(%failure, "reading users from Kafka failed; their tenants will retry");
    let names: Names = {
        let tenants = context.tenants.all();
        let name = |member: &Member| (tenants[member.request.tenant].tenant.id.to_string(), member.request.tenant);
        Arc::new(members.iter().map(name).collect())
    };
    let found = async {
        let of_state = |error: StateError| Failure::plain(error.to_string());
        let begun = context.state.server_time().await.map_err(of_state)?;
        let extent = find_extent(context.generation, kafka, stream, snapshots, index, &names, &members).await?;
        let left_out = find_left_out(context, &names, &extent, &begun).await.map_err(of_state);
        Ok((extent, left_out?))
    };
    let (extent, left_out) = match found.await {
        Ok(found) => found,
        Err(failure) => {
            failed(&failure);
            for Member { request, .. } in members {
                // The tenant may have ended.
                let _ = request.reply.send(Err(JoinRefusal::Failed(failure.to_string())));
            }
            return;
        }
    };
    let spool = context.spool.begin(context.config.limits.stall, true);
    let mut joined = Vec::with_capacity(members.len());
    for Member { request: JoinRequest { tenant, reply, .. }, snapshot } in members {
        let (rows, receiver) = spool.queue();
        let position = extent.position().max(snapshot.position);
        let mapping = Some(snapshot.mapping.to_string());
        snapshots.includes(tenant, snapshot.position);
        if reply.send(Ok(SnapshotShare { position, mapping, rows: receiver })).is_ok() {
            joined.push(ScanMember { tenant, rows });
        }
    }
    if joined.is_empty() {
        return;
    }
    tracing::info!(
        tenants = joined.len(),
        partition = stream.partition(),
        users = extent.rows(),
        "rebuilding from the topic"
    );
    let tenants = context.tenants.all();
    let current = tenants.iter().filter(|(_, handle)| !handle.is_retired());
    let mut partitioner = Partitioner::new(current.map(|(index, handle)| (index, &*handle.tenant)), joined, spool);
    let sending = send_rows(context, kafka, stream, names, extent, left_out, &mut partitioner);
    match timeout(context.config.limits.snapshot_age, sending).await {
        Ok(Ok(())) => partitioner.finish().await,
        Ok(Err(failure)) => {
            failed(&failure);
            partitioner.interrupt(&Interruption::BrokenOff);
        }
        Err(_) => tracing::warn!("users were not read within limits.snapshot_age; unfinished tenants will retry"),
    }
}

/// The first pass. The messages that it reads are left out of the stream of its tenants.
async fn find_extent(
    generation: Generation,
    kafka: &Kafka,
    stream: &Arc<PartitionStream>,
    snapshots: &TopicSnapshots,
    index: &Arc<SnapshotIndex>,
    names: &Names,
    members: &[Member],
) -> Result<Extent, Failure> {
    // Read before the end of the partition: what it covers lies before that end, unless a transaction is open there.
    let published = index.published(generation);
    let (settings, known) = (kafka.clone(), stream.clone());
    let found = blocking(move || {
        Ok(match RangeReader::new(&settings)?.settled_end(known.topic(), known.partition())? {
            Some(settled) => (settled, published),
            // A transaction is open: `published` may cover its messages.
            None => (known.bounds()?.1, Lsn::ZERO),
        })
    });
    let (end, position) = found.await?;
    members.iter().for_each(|member| snapshots.rebuild_to(member.request.tenant, end));
    let starts = members.iter().map(|member| (member.request.tenant, member.snapshot.offset));
    let mut extent = Extent::new(generation, end, position, starts);
    let (kafka, names, stream, index) = (kafka.clone(), names.clone(), stream.clone(), index.clone());
    blocking(move || {
        if extent.is_empty() {
            return Ok(extent);
        }
        let place = (stream.topic(), stream.partition());
        let reader = RangeReader::new(&kafka)?;
        // Set once the end of the partition has been reached: only then the rest of a transaction may be missing.
        let mut deadline = None;
        reader.read(place, extent.from(), |found| match found {
            FoundInRange::Message(message) => add(&mut extent, &names, message),
            FoundInRange::End => {
                deadline.get_or_insert_with(|| Instant::now() + OPEN_TRANSACTION_TIMEOUT);
                extent.end_reached()
            }
            FoundInRange::Nothing => {
                let is_published = || extent.open().is_some_and(|commit| index.published(generation) > commit);
                match deadline {
                    Some(deadline) if Instant::now() > deadline || is_published() => ControlFlow::Break(()),
                    Some(_) | None => ControlFlow::Continue(()),
                }
            }
        })?;
        if extent.open().is_some() && reader.has_nothing(place, extent.end())? {
            extent.finish();
        }
        match extent.open() {
            None => Ok(extent),
            Some(_) => Err(Failure::plain("the last transaction in the topic is not complete".to_owned())),
        }
    })
    .await
}

/// The users that the publisher leaves out, with the reasons. Read after the end of the extent was found: what the publisher had left out
/// before is recorded by then. A user that is published again is in the topic, unless the message lies after that end.
async fn find_left_out(
    context: &SessionContext,
    names: &Names,
    extent: &Extent,
    begun: &str,
) -> Result<LeftOutUsers, StateError> {
    let tenants: Vec<&str> = names.keys().map(String::as_str).collect();
    let mut users = LeftOutUsers::new();
    for LeftOutUser { tenant, user, why } in context.state.left_out(&tenants, begun).await? {
        let Some(index) = names.get(tenant.as_str()).copied() else { continue };
        let reason = match why {
            Some(why) => why.to_string(),
            None if extent.has(index, &user) => continue,
            None => "the Kafka output has left it out until now".to_owned(),
        };
        users.entry(index).or_default().insert(user, reason);
    }
    Ok(users)
}

fn add(extent: &mut Extent, names: &Names, message: &BorrowedMessage<'_>) -> ControlFlow<()> {
    let headers = record_headers(message);
    // The stream reports what cannot be read.
    let Ok(place) = headers.place() else { return ControlFlow::Continue(()) };
    let tenant = headers.tenant.and_then(|name| names.get(name)).copied();
    let user = tenant.and_then(|_| user_of_key(message.key()?).ok());
    let own = tenant.zip(user.as_deref());
    let own = own.map(|(tenant, user)| OwnMessage { tenant, user, has_value: message.payload().is_some() });
    extent.add(message.offset(), &place, own)
}

/// The second pass.
async fn send_rows(
    context: &SessionContext,
    kafka: &Kafka,
    stream: &Arc<PartitionStream>,
    names: Names,
    extent: Extent,
    left_out: LeftOutUsers,
    partitioner: &mut Partitioner<TenantIdx>,
) -> Result<(), Failure> {
    let (users, mut arriving) = mpsc::channel(USERS_IN_FLIGHT);
    let (kafka, stream) = (kafka.clone(), stream.clone());
    let reading = blocking(move || {
        let mut left = extent.rows();
        if left > 0 {
            let place = (stream.topic(), stream.partition());
            RangeReader::new(&kafka)?.read(place, extent.from(), |found| match found {
                FoundInRange::Message(message) => {
                    if let Some(row) = row(message, &names, &extent) {
                        left -= 1;
                        if users.blocking_send(row).is_err() {
                            // The pass was given up.
                            left = 0;
                        }
                    }
                    if left == 0 || message.offset() + 1 >= extent.end() {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                }
                FoundInRange::End => ControlFlow::Break(()),
                FoundInRange::Nothing => ControlFlow::Continue(()),
            })?;
        }
        match left {
            0 => Ok(()),
            _ => Err(Failure::plain(format!("compaction removed the messages of {left} users during the rebuild"))),
        }
    });
    let handing = async {
        while let Some((index, user)) = arriving.recv().await {
            // The message of a user that is left out now is older than the user's row.
            let is_left_out = |user: &User| left_out.get(&index).is_some_and(|users| users.contains_key(&*user.id));
            if let Some(user) = user.filter(|user| !is_left_out(user)) {
                send_user(context, partitioner, index, user).await;
            }
        }
        for (index, users) in &left_out {
            for (id, reason) in users {
                send_user(context, partitioner, *index, User::unmappable(id, reason.clone())).await;
            }
        }
    };
    let (read, ()) = tokio::join!(reading, handing);
    read
}

async fn send_user(context: &SessionContext, partitioner: &mut Partitioner<TenantIdx>, tenant: TenantIdx, user: User) {
    let tenants = context.tenants.all();
    let key = tenants[tenant].tenant.key.as_str();
    let Some(member) = partitioner.find(&TenantRef::Key(Cow::Borrowed(key))) else { return };
    if user.why_unmappable().is_some() {
        context.fingerprints().forget(tenant, &user.id);
    } else {
        context.fingerprints().learn(tenant, &user);
    }
    if partitioner.add(member, user) {
        partitioner.send(member).await;
    }
}

/// The tenant of a message that is the last one of its user, with the user; `None` in it for a user that was deleted. A row that
/// cannot be read is one that cannot be mapped: the user is there, and must not look deleted.
fn row(message: &BorrowedMessage<'_>, names: &Names, extent: &Extent) -> Option<(TenantIdx, Option<User>)> {
    let headers = record_headers(message);
    let tenant = *names.get(headers.tenant?)?;
    let id = user_of_key(message.key()?).ok()?;
    if !extent.is_row(tenant, &id, message.offset()) {
        return None;
    }
    let read = content(&id, message.payload(), &headers, headers.place().ok()?.at);
    Some((
        tenant,
        match read {
            Ok(RecordContent::Change { change: Change::Upsert(user), .. }) => Some(user),
            Ok(RecordContent::Change { .. } | RecordContent::Tombstone) => None,
            Err(fault) => Some(User::unmappable(&id, fault.to_string())),
        },
    ))
}
