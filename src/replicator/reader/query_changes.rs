//! The query mapping's stream: changes say only whom they touch. The users of some transactions are read together, by
//! one query for all tenants, and go on as if each transaction had carried them.
//!
//! A reading is ahead of the stream, and only of it: nothing older ever follows, since all that comes is read, too.

use crate::map::{AffectedKey, TenantRef, Unmappable, Via, Watch};
use crate::model::{Cell, Change, Lsn, Xid};
use crate::replicator::error::ServiceError;
use crate::replicator::reader::Out;
use crate::replicator::reader::sink::{IsCreate, Sink, Transaction};
use crate::replicator::session::context::SessionContext;
use crate::replicator::snapshotter::point_read::{FollowedKey, ReadUser};
use crate::replicator::source::mapping::WatchedTable;
use std::collections::{HashMap, HashSet};

/// So many users are read at once: all of them are in memory then, profiles of hundreds of kilobytes among them.
const KEYS: usize = 250;
/// So many transactions wait for a reading: their visibility is looked at one by one.
const TRANSACTIONS: usize = 10_000;

/// What happened to a row of a watched table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Insert,
    Update,
    Delete,
}

/// The transactions that wait for a reading.
#[derive(Default)]
pub(crate) struct AffectedUsers {
    users: HashMap<Vec<String>, Touching>,
    /// By keys that lead to users by way of another table.
    indirect: HashMap<Via, HashMap<Vec<String>, Touching>>,
    /// Complete ones with their ends, in order.
    done: Vec<(Transaction, Lsn)>,
}

#[derive(Clone)]
struct Touching {
    last: Transaction,
    /// The tenants that rows named: who of them does not have the user any more, loses it with the transaction that did.
    /// Not later: after a replay from there nothing would name the tenant again.
    tenants: HashMap<Option<String>, RoutedChange>,
    /// Any tenant may have had the user, until then.
    all_tenants: Option<Transaction>,
    /// The first that was seen of the user is the row's insert.
    inserted: bool,
    /// A row came or went: the user may be new to a tenant.
    is_create: bool,
}

/// What named a tenant.
#[derive(Clone, Copy)]
struct RoutedChange {
    last: Transaction,
    /// The first that did was a row's insert.
    by_insert: bool,
}

impl AffectedUsers {
    pub(crate) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.indirect.is_empty() && self.done.is_empty()
    }

    /// Whether there is something to be read now, though more may come at once.
    pub(crate) fn is_full(&self) -> bool {
        let indirect = self.indirect.values().map(HashMap::len).sum::<usize>();
        self.users.len() + indirect >= KEYS || self.done.len() >= TRANSACTIONS
    }

    /// Takes a row of a watched table.
    pub(crate) fn touch(
        &mut self,
        watched: &WatchedTable,
        row: &[Cell<'_>],
        event: Event,
        transaction: Transaction,
    ) -> Result<(), Unmappable> {
        let Some(AffectedKey { key, tenant }) = watched.plan.affected_key(row)? else { return Ok(()) };
        let key = key.into_iter().map(|part| part.into_owned()).collect();
        let inserted = watched.is_users_own && event == Event::Insert;
        let fresh =
            || Touching { last: transaction, tenants: HashMap::new(), all_tenants: None, inserted, is_create: false };
        let users = match watched.plan.via() {
            None => &mut self.users,
            Some(via) => self.indirect.entry(via.clone()).or_default(),
        };
        let touching = users.entry(key).or_insert_with(fresh);
        touching.last = transaction;
        touching.is_create |= event != Event::Update;
        let tenant = match tenant {
            TenantRef::Only => None,
            TenantRef::Key(tenant) => Some(tenant.into_owned()),
            TenantRef::NoTenant => return Ok(()),
            TenantRef::Unsent => {
                if watched.is_users_own && event == Event::Delete {
                    touching.all_tenants = Some(transaction);
                }
                return Ok(());
            }
        };
        let named = RoutedChange { last: transaction, by_insert: event == Event::Insert };
        touching.tenants.entry(tenant).or_insert(named).last = transaction;
        Ok(())
    }

    /// A transaction is complete. One that has nobody to wait for goes on at once.
    pub(crate) fn commit(&mut self, sink: &mut impl Sink, transaction: Transaction, end: Lsn) {
        match self.is_empty() {
            true => sink.commit(transaction, end),
            false => self.done.push((transaction, end)),
        }
    }

    /// Reads whoever was touched, and hands everything on, transaction by transaction.
    pub(crate) async fn resolve<S: Sink>(
        &mut self,
        out: &mut Out<S>,
        context: &SessionContext,
    ) -> Result<(), ServiceError> {
        if self.is_empty() {
            return Ok(());
        }
        let mut affected = std::mem::take(self);
        let xids = affected.xids();
        for (via, indirect) in std::mem::take(&mut affected.indirect) {
            for FollowedKey { from, to } in context.rereader.follow_keys(&via, &xids, &texts(indirect.keys())).await? {
                if let Some(touching) = indirect.get(&from) {
                    affected.users.entry(to).or_insert_with(|| touching.clone()).join(touching);
                }
            }
        }
        let keys = texts(affected.users.keys());
        let found = match keys.is_empty() {
            true => Vec::new(),
            false => {
                context.live.metrics.rereads.inc_by(keys.len() as u64);
                context.rereader.read_keys(&context.config, &xids, &keys).await?.users
            }
        };
        affected.attribute(&found, context, &xids).await?;
        let watched = context.config.users.query.iter().flat_map(|query| &query.watch);
        let mut own = watched.filter(|watch| watch.is_users_own);
        let is_of_one = context.config.users.tenant.is_none() || own.all(|watch| watch.tenant.is_some());
        let mut changes: HashMap<Lsn, Vec<(Said, IsCreate)>> = HashMap::new();
        for (at, said, is_create) in affected.outcome(found, context.id_in_key(), is_of_one) {
            changes.entry(at.commit_lsn).or_default().push((said, is_create));
        }
        let mut hand_on = |sink: &mut S, transaction: Transaction| {
            for (said, is_create) in changes.remove(&transaction.commit_lsn).unwrap_or_default() {
                match said {
                    Said::To(tenant, change) => sink.add(transaction, tenant.as_deref(), change, is_create),
                    Said::Anywhere(change) => sink.add_everywhere(transaction, &change),
                }
            }
        };
        let sink = &mut out.sink;
        for (transaction, end) in &affected.done {
            hand_on(sink, *transaction);
            sink.commit(*transaction, *end);
        }
        // What is left belongs to the transaction that still arrives.
        if let Some(current) = affected.users.values().map(|touching| touching.last).max_by_key(|last| last.commit_lsn)
        {
            hand_on(sink, current);
        }
        Ok(())
    }

    /// Where a user is gone whose own row did not say from where: from the tenants that other rows still name. Those that went
    /// with it have named theirs. Unless all of the other tables name tenants, it may have been any.
    async fn attribute(
        &mut self,
        found: &[ReadUser],
        context: &SessionContext,
        xids: &[Xid],
    ) -> Result<(), ServiceError> {
        if self.users.values().all(|touching| touching.all_tenants.is_none()) {
            return Ok(());
        }
        let is_there: HashSet<&[String]> = found.iter().map(|row| &row.key[..]).collect();
        let nowhere =
            self.users.iter().filter(|(key, touching)| touching.all_tenants.is_some() && !is_there.contains(&key[..]));
        let gone: Vec<Vec<String>> = nowhere.map(|(key, _)| key.clone()).collect();
        let watched = context.config.users.query.iter().flat_map(|query| &query.watch);
        let others = watched.filter(|watch| !watch.is_users_own);
        let Some(naming) = others.map(Watch::leads_to_tenants).collect::<Option<Vec<_>>>() else { return Ok(()) };
        if gone.is_empty() || naming.is_empty() {
            return Ok(());
        }
        for via in &naming {
            for FollowedKey { from: key, to: tenant } in
                context.rereader.follow_keys(via, xids, &texts(gone.iter())).await?
            {
                let Some(touching) = self.users.get_mut(&key) else { continue };
                if let (Some(last), Some(tenant)) = (touching.all_tenants, tenant.into_iter().next()) {
                    touching.tenants.entry(Some(tenant)).or_insert(RoutedChange { last, by_insert: false });
                }
            }
        }
        for key in &gone {
            if let Some(touching) = self.users.get_mut(key) {
                touching.all_tenants = None;
            }
        }
        Ok(())
    }

    /// The transactions that have to be visible in the reading.
    fn xids(&self) -> Vec<Xid> {
        let touching = self.users.values().chain(self.indirect.values().flat_map(HashMap::values));
        let done = self.done.iter().map(|(transaction, _)| transaction.commit.xid);
        let mut xids: Vec<Xid> = done.chain(touching.map(|touching| touching.last.commit.xid)).collect();
        xids.sort_unstable_by_key(|xid| xid.0);
        xids.dedup();
        xids
    }

    /// What the reading makes of everybody who was touched, and whether that brings them to the tenant. `id_at`: which part of
    /// the key is the user's id; `is_of_one`: a user's own row says whose it is.
    fn outcome(&self, found: Vec<ReadUser>, id_at: usize, is_of_one: bool) -> Vec<(Transaction, Said, IsCreate)> {
        let mut has: HashMap<Vec<String>, Vec<Option<String>>> = HashMap::new();
        for ReadUser { key, tenant, .. } in &found {
            has.entry(key.clone()).or_default().push(tenant.clone());
        }
        let mut outcome = Vec::with_capacity(found.len());
        for ReadUser { key, tenant, mut user } in found {
            let Some(touching) = self.users.get(&key) else { continue };
            if user.updated_at_derived && !touching.inserted {
                user.updated_at = Some(touching.last.commit.commit_time);
            }
            let is_create =
                touching.brings_to(&tenant, has.get(&key).map(Vec::as_slice).unwrap_or_default(), is_of_one);
            outcome.push((touching.last, Said::To(tenant, Change::Upsert(user)), is_create));
        }
        for (key, touching) in &self.users {
            let has = has.remove(&key[..]).unwrap_or_default();
            let Some(id) = key.get(id_at) else { continue };
            let delete = |at: &Transaction| Change::Delete { id: id.as_str().into(), at: at.commit.commit_time };
            if let (Some(at), true) = (&touching.all_tenants, has.is_empty()) {
                outcome.push((*at, Said::Anywhere(delete(at)), IsCreate::No));
                continue;
            }
            for (gone, RoutedChange { last, .. }) in touching.tenants.iter().filter(|(tenant, _)| !has.contains(tenant))
            {
                outcome.push((*last, Said::To(gone.clone(), delete(last)), IsCreate::No));
            }
        }
        outcome
    }
}

impl Touching {
    /// Whether what was read brings the user to this tenant; `has`: all those that it is in now.
    fn brings_to(&self, tenant: &Option<String>, has: &[Option<String>], is_of_one: bool) -> IsCreate {
        let is_new = match is_of_one {
            // It has left another one.
            true => self.tenants.keys().any(|named| !has.contains(named)),
            false => self.tenants.get(tenant).is_some_and(|named| named.by_insert),
        };
        match (self.inserted || is_new, self.is_create) {
            (true, _) => IsCreate::Yes,
            (false, true) => IsCreate::Unknown,
            (false, false) => IsCreate::No,
        }
    }

    /// The same user was touched in another way, too.
    fn join(&mut self, other: &Touching) {
        if other.last.commit_lsn > self.last.commit_lsn {
            self.last = other.last;
        }
        for (tenant, theirs) in &other.tenants {
            let named = self.tenants.entry(tenant.clone()).or_insert(*theirs);
            named.by_insert &= theirs.by_insert;
            if theirs.last.commit_lsn > named.last.commit_lsn {
                named.last = theirs.last;
            }
        }
        self.all_tenants = self.all_tenants.or(other.all_tenants);
        self.inserted &= other.inserted;
        self.is_create |= other.is_create;
    }
}

fn texts<'a>(keys: impl Iterator<Item = &'a Vec<String>>) -> Vec<Vec<&'a str>> {
    keys.map(|key| key.iter().map(String::as_str).collect()).collect()
}

/// A change and whom it is for.
enum Said {
    /// The tenant with this key; `None`: the only one.
    To(Option<String>, Change),
    Anywhere(Change),
}
