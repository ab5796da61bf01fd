//! Partitions the users of one scan among the tenants that take part in it.

use crate::config::Tenant;
use crate::map::TenantRef;
use crate::model::User;
use crate::route::Directory;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Users are handed on in chunks of this size.
const CHUNK_BYTES: usize = 128 << 10;
/// Total time that a scan may wait for one member, in multiples of `limits.stall`.
const STALL_BUDGET: u32 = 12;
/// A member stalls the scan if it waits for the member for more than this share of its time. One that only has many users
/// takes them about as fast as the scan reads them.
const STALL_RATIO: f64 = 0.8;

/// A tenant that takes part in a scan. `T` is its index in the session or in the configuration.
pub(crate) struct ScanMember<T> {
    pub(crate) tenant: T,
    /// Takes the users in chunks, and `None` after the last one.
    pub(crate) rows: mpsc::Sender<Option<Vec<User>>>,
}

/// The index of a member, as opposed to that of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberIdx(usize);

/// Users on their way to the members of a scan.
pub(crate) struct Partitioner<T> {
    /// A member that dropped out is `None`.
    members: Vec<Option<MemberBuffer<T>>>,
    directory: Directory<Option<MemberIdx>>,
    begun: Instant,
}

struct MemberBuffer<T> {
    member: ScanMember<T>,
    chunk: Vec<User>,
    bytes: usize,
    /// How long the scan has waited for the member.
    waited: Duration,
}

impl<T: Copy + Eq + Hash> Partitioner<T> {
    /// `tenants` are all current tenants, members or not: a mapping without a tenant column needs exactly one.
    pub(crate) fn new<'a>(
        tenants: impl Iterator<Item = (T, &'a Tenant)>,
        members: Vec<ScanMember<T>>,
    ) -> Partitioner<T> {
        let by_tenant: HashMap<T, MemberIdx> =
            members.iter().enumerate().map(|(index, member)| (member.tenant, MemberIdx(index))).collect();
        let directory =
            Directory::new(tenants.map(|(index, tenant)| (&tenant.id, &tenant.key, by_tenant.get(&index).copied())));
        let buffer = |member| Some(MemberBuffer { member, chunk: Vec::new(), bytes: 0, waited: Duration::ZERO });
        Partitioner { members: members.into_iter().map(buffer).collect(), directory, begun: Instant::now() }
    }

    /// The member whose user this is.
    pub(crate) fn find(&mut self, tenant: &TenantRef<'_>) -> Option<MemberIdx> {
        let member = match tenant {
            TenantRef::Only => self.directory.only(),
            TenantRef::Key(key) => self.directory.find(key).ok(),
            TenantRef::NoTenant | TenantRef::Unsent => None,
        };
        let member = member.flatten()?;
        self.member(member).map(|_| member)
    }

    /// A member's tenant.
    pub(crate) fn tenant(&self, member: MemberIdx) -> Option<T> {
        self.member(member).map(|buffer| buffer.member.tenant)
    }

    /// The member, unless it has left the scan. A member that has left takes another snapshot, so this scan says nothing
    /// about its rows.
    fn member(&self, member: MemberIdx) -> Option<&MemberBuffer<T>> {
        self.members.get(member.0)?.as_ref().filter(|buffer| !buffer.member.rows.is_closed())
    }

    /// Buffers a user. Returns whether the member's chunk is full and has to be sent.
    pub(crate) fn add(&mut self, member: MemberIdx, user: User) -> bool {
        let Some(buffer) = self.members.get_mut(member.0).and_then(Option::as_mut) else { return false };
        buffer.bytes += user.raw_json.len() + size_of::<User>();
        buffer.chunk.push(user);
        buffer.bytes >= CHUNK_BYTES
    }

    /// Sends a member its chunk. The member drops out if it has left, takes nothing for `stall`, or stalls the others.
    pub(crate) async fn send(&mut self, member: MemberIdx, stall: Duration) {
        let is_alone = self.members.iter().flatten().nth(1).is_none();
        let Some(buffer) = self.members.get_mut(member.0).and_then(Option::as_mut) else { return };
        buffer.bytes = 0;
        let chunk = Some(std::mem::take(&mut buffer.chunk));
        let begun = Instant::now();
        let is_taken = matches!(timeout(stall, buffer.member.rows.send(chunk)).await, Ok(Ok(())));
        buffer.waited += begun.elapsed();
        let is_slow = buffer.waited > stall * STALL_BUDGET && buffer.waited > self.begun.elapsed().mul_f64(STALL_RATIO);
        if !is_taken || is_slow && !is_alone {
            self.members[member.0] = None;
        }
    }

    /// Whether every member has dropped out.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.iter().all(Option::is_none)
    }

    /// Sends the last chunks, and then the end.
    pub(crate) async fn finish(mut self, stall: Duration) {
        for index in 0..self.members.len() {
            self.send(MemberIdx(index), stall).await;
        }
        for buffer in self.members.into_iter().flatten() {
            // A member that does not take it has dropped out and starts over.
            let _ = timeout(stall, buffer.member.rows.send(None)).await;
        }
    }
}
