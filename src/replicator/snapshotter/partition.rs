//! Partitions the users of one scan among the tenants that take part in it.

use crate::config::Tenant;
use crate::map::TenantRef;
use crate::model::User;
use crate::route::Directory;
use crate::snapshot::{Interruption, RowSender, SpooledScan, size_in_memory};
use std::collections::HashMap;
use std::hash::Hash;

/// A tenant that takes part in a scan. `T` is its index in the session or in the configuration.
pub(crate) struct ScanMember<T> {
    pub(crate) tenant: T,
    pub(crate) rows: RowSender,
}

/// The index of a member, as opposed to that of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberIdx(usize);

/// Users on their way to the members of a scan.
pub(crate) struct Partitioner<T> {
    /// A member that dropped out is `None`.
    members: Vec<Option<MemberBuffer<T>>>,
    directory: Directory<Option<MemberIdx>>,
    spool: SpooledScan,
    /// The size of a full chunk.
    chunk_bytes: usize,
}

struct MemberBuffer<T> {
    member: ScanMember<T>,
    chunk: Vec<User>,
    bytes: usize,
}

impl<T: Copy + Eq + Hash> Partitioner<T> {
    /// `tenants` are all current tenants, members or not: a mapping without a tenant column needs exactly one.
    pub(crate) fn new<'a>(
        tenants: impl Iterator<Item = (T, &'a Tenant)>,
        members: Vec<ScanMember<T>>,
        spool: SpooledScan,
    ) -> Partitioner<T> {
        let by_tenant: HashMap<T, MemberIdx> =
            members.iter().enumerate().map(|(index, member)| (member.tenant, MemberIdx(index))).collect();
        let directory =
            Directory::new(tenants.map(|(index, tenant)| (&tenant.id, &tenant.key, by_tenant.get(&index).copied())));
        let chunk_bytes = spool.chunk_bytes(members.len());
        let buffer = |member| Some(MemberBuffer { member, chunk: Vec::new(), bytes: 0 });
        Partitioner { members: members.into_iter().map(buffer).collect(), directory, spool, chunk_bytes }
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
        self.members.get(member.0)?.as_ref().filter(|buffer| buffer.member.rows.is_open())
    }

    /// Buffers a user. Returns whether the member's chunk is full and has to be sent.
    pub(crate) fn add(&mut self, member: MemberIdx, user: User) -> bool {
        let Some(buffer) = self.members.get_mut(member.0).and_then(Option::as_mut) else { return false };
        buffer.bytes += size_in_memory(&user);
        buffer.chunk.push(user);
        buffer.bytes >= self.chunk_bytes
    }

    /// Sends a member its chunk. Members drop out if the spool is full and they are the slowest.
    pub(crate) async fn send(&mut self, member: MemberIdx) {
        let Some(buffer) = self.members.get_mut(member.0).and_then(Option::as_mut) else { return };
        buffer.bytes = 0;
        let chunk = std::mem::take(&mut buffer.chunk);
        self.spool.send(&buffer.member.rows, chunk).await;
        if !buffer.member.rows.is_open() {
            self.members[member.0] = None;
        }
    }

    /// Whether every member has dropped out.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.iter().flatten().all(|buffer| !buffer.member.rows.is_open())
    }

    /// Sends the last chunks, and then the end.
    pub(crate) async fn finish(mut self) {
        for index in 0..self.members.len() {
            self.send(MemberIdx(index)).await;
            if let Some(buffer) = self.members[index].take() {
                buffer.member.rows.finish();
            }
        }
    }

    /// Tells the members why the scan has ended early.
    pub(crate) fn interrupt(self, why: &Interruption) {
        self.members.into_iter().flatten().for_each(|buffer| buffer.member.rows.interrupt(why.clone()));
    }
}
