//! Users of one reading of the source, sorted to those who take part in it.

use crate::config::Tenant;
use crate::map::TenantRef;
use crate::model::User;
use crate::route::Directory;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

/// Users are handed on in chunks of this size.
const CHUNK_BYTES: usize = 128 << 10;
/// So many times `limits.stall` in all may the reading stand still for one member,
const STALLS: u32 = 12;
/// where that is more than this part of the time: one that just has many users takes them about as fast as they are read.
const MOST: f64 = 0.8;

/// Who takes part: a tenant, and where its users go, in chunks, and `None` behind the last one.
pub(crate) struct Member {
    /// By its place among all tenants.
    pub(crate) tenant: usize,
    pub(crate) rows: mpsc::Sender<Option<Vec<User>>>,
}

/// Users on their way to the members of a pass.
pub(crate) struct Sorter {
    members: Vec<Option<Receiving>>,
    directory: Directory<usize>,
    begun: Instant,
}

struct Receiving {
    member: Member,
    chunk: Vec<User>,
    bytes: usize,
    /// So long the reading has stood still for it.
    waited: Duration,
}

impl Sorter {
    /// `tenants` are all that there are, so that one alone is known to be the only one; those that do not take part lead
    /// nowhere. A member names one by its place among them.
    pub(crate) fn new(tenants: &[Option<&Tenant>], members: Vec<Member>) -> Sorter {
        let mut places = vec![members.len(); tenants.len()];
        for (place, member) in members.iter().enumerate() {
            places[member.tenant] = place;
        }
        let known = places.into_iter().zip(tenants).filter_map(|(place, tenant)| Some((place, (*tenant)?)));
        let directory = Directory::new(known.map(|(place, tenant)| (&tenant.id, &tenant.key, place)));
        let receiving = |member| Some(Receiving { member, chunk: Vec::new(), bytes: 0, waited: Duration::ZERO });
        Sorter { members: members.into_iter().map(receiving).collect(), directory, begun: Instant::now() }
    }

    /// Whose user this is: a place among the members.
    pub(crate) fn find(&mut self, tenant: &TenantRef<'_>) -> Option<usize> {
        let place = match tenant {
            TenantRef::Only => self.directory.only(),
            TenantRef::Key(key) => self.directory.find(key).ok(),
            TenantRef::NoTenant | TenantRef::Unsent => None,
        }?;
        self.member(place).map(|_| place)
    }

    /// The tenant of a member.
    pub(crate) fn tenant(&self, place: usize) -> Option<usize> {
        self.member(place).map(|receiving| receiving.member.tenant)
    }

    /// One that is still there. Who has left begins anew, and what is read here says nothing of its users any more.
    fn member(&self, place: usize) -> Option<&Receiving> {
        self.members.get(place)?.as_ref().filter(|receiving| !receiving.member.rows.is_closed())
    }

    /// Takes a user; gives the member where its chunk is full by it.
    pub(crate) fn add(&mut self, place: usize, user: User) -> Option<usize> {
        let receiving = self.members.get_mut(place)?.as_mut()?;
        receiving.bytes += user.raw_json.len() + size_of::<User>();
        receiving.chunk.push(user);
        (receiving.bytes >= CHUNK_BYTES).then_some(place)
    }

    /// Hands a member its chunk. One that is gone, or takes nothing for `stall`, drops out, and so does one for whose sake the
    /// reading hardly moves: the others go on.
    pub(crate) async fn send(&mut self, index: usize, stall: Duration) {
        let is_alone = self.members.iter().flatten().nth(1).is_none();
        let Some(receiving) = self.members.get_mut(index).and_then(Option::as_mut) else { return };
        receiving.bytes = 0;
        let chunk = Some(std::mem::take(&mut receiving.chunk));
        let begun = Instant::now();
        let is_taken = matches!(timeout(stall, receiving.member.rows.send(chunk)).await, Ok(Ok(())));
        receiving.waited += begun.elapsed();
        let is_slow = receiving.waited > stall * STALLS && receiving.waited > self.begun.elapsed().mul_f64(MOST);
        if !is_taken || is_slow && !is_alone {
            self.members[index] = None;
        }
    }

    /// Whether all have dropped out.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.iter().all(Option::is_none)
    }

    /// Hands out what is left, and says that it was all.
    pub(crate) async fn finish(mut self, stall: Duration) {
        for index in 0..self.members.len() {
            self.send(index, stall).await;
        }
        for receiving in self.members.into_iter().flatten() {
            // One that does not take it has dropped out, and knows it.
            let _ = timeout(stall, receiving.member.rows.send(None)).await;
        }
    }
}
