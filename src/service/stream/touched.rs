//! The query mapping's stream: changes say only whom they touch. The users of some transactions are read together, by
//! one query for all tenants, and go on as if each transaction had carried them.
//!
//! A reading is ahead of the stream, and only of it: nothing older ever follows, since all that comes is read, too.

use super::sink::{Sink, Transaction};
use crate::map::{TenantRef, Touch, Unmappable, Via};
use crate::model::{Cell, Change, Lsn, Xid};
use crate::service::ServiceError;
use crate::service::reading::reread::Row;
use crate::service::shared::Shared;
use crate::service::source::plans::Watched;
use crate::service::stream::Out;
use std::collections::HashMap;

/// So many users are read at once: all of them are in memory then, profiles of hundreds of kilobytes among them.
const KEYS: usize = 250;
/// So many transactions wait for a reading: their visibility is looked at one by one.
const TRANSACTIONS: usize = 10_000;

/// What happened to a row of a watched table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Insert,
    Update,
    Delete,
}

/// The transactions that wait for a reading.
#[derive(Default)]
pub(super) struct Touched {
    users: HashMap<Vec<String>, Touching>,
    /// By keys that lead to users by way of another table.
    indirect: HashMap<Via, HashMap<Vec<String>, Touching>>,
    /// Complete ones with their ends, in order.
    done: Vec<(Transaction, Lsn)>,
}

#[derive(Clone)]
struct Touching {
    last: Transaction,
    /// The tenants that rows named, each with the transaction that did last: who of them does not have the user any more,
    /// loses it then. Not later: after a replay from there nothing would name the tenant again.
    tenants: HashMap<Option<String>, Transaction>,
    /// Any tenant may have had the user, until then.
    anywhere: Option<Transaction>,
    /// The first that was seen of the user is the row's insert.
    born: bool,
    /// A row came or went: the user may be new to a tenant.
    comes: bool,
}

impl Touched {
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.indirect.is_empty() && self.done.is_empty()
    }

    /// Whether there is something to be read now, though more may come at once.
    pub(super) fn is_full(&self) -> bool {
        let indirect = self.indirect.values().map(HashMap::len).sum::<usize>();
        self.users.len() + indirect >= KEYS || self.done.len() >= TRANSACTIONS
    }

    /// Takes a row of a watched table.
    pub(super) fn touch(
        &mut self,
        watched: &Watched,
        row: &[Cell<'_>],
        event: Event,
        transaction: Transaction,
    ) -> Result<(), Unmappable> {
        let Some(Touch { key, tenant }) = watched.plan.touches(row)? else { return Ok(()) };
        let key = key.into_iter().map(|part| part.into_owned()).collect();
        let born = watched.is_users_own && event == Event::Insert;
        let fresh = || Touching { last: transaction, tenants: HashMap::new(), anywhere: None, born, comes: false };
        let users = match watched.plan.via() {
            None => &mut self.users,
            Some(via) => self.indirect.entry(via.clone()).or_default(),
        };
        let touching = users.entry(key).or_insert_with(fresh);
        touching.last = transaction;
        touching.comes |= event != Event::Update;
        let tenant = match tenant {
            TenantRef::Only => None,
            TenantRef::Key(tenant) => Some(tenant.into_owned()),
            TenantRef::Nobody => return Ok(()),
            TenantRef::Unsent => {
                if watched.is_users_own && event == Event::Delete {
                    touching.anywhere = Some(transaction);
                }
                return Ok(());
            }
        };
        touching.tenants.insert(tenant, transaction);
        Ok(())
    }

    /// A transaction is complete. One that has nobody to wait for goes on at once.
    pub(super) fn commit(&mut self, sink: &mut impl Sink, transaction: Transaction, end: Lsn) {
        match self.is_empty() {
            true => sink.commit(transaction, end),
            false => self.done.push((transaction, end)),
        }
    }

    /// Reads whoever was touched, and hands everything on, transaction by transaction.
    pub(super) async fn resolve<S: Sink>(&mut self, out: &mut Out<S>, shared: &Shared) -> Result<(), ServiceError> {
        if self.is_empty() {
            return Ok(());
        }
        let mut touched = std::mem::take(self);
        let xids = touched.xids();
        for (via, indirect) in std::mem::take(&mut touched.indirect) {
            for (from, to) in shared.rereader.lead(&via, &xids, &texts(indirect.keys())).await? {
                if let Some(touching) = indirect.get(&from) {
                    touched.users.entry(to).or_insert_with(|| touching.clone()).join(touching);
                }
            }
        }
        let keys = texts(touched.users.keys());
        let found = match keys.is_empty() {
            true => Vec::new(),
            false => {
                shared.live.metrics.rereads.inc_by(keys.len() as u64);
                shared.rereader.read_keys(&shared.config, &xids, &keys).await?.0
            }
        };
        let mut changes: HashMap<Lsn, Vec<(Said, bool)>> = HashMap::new();
        for (at, said, comes) in touched.outcome(found, shared.id_in_key()) {
            changes.entry(at.commit_lsn).or_default().push((said, comes));
        }
        let mut hand_on = |sink: &mut S, transaction: Transaction| {
            for (said, comes) in changes.remove(&transaction.commit_lsn).unwrap_or_default() {
                match said {
                    Said::To(tenant, change) => sink.add(transaction, tenant.as_deref(), change, comes),
                    Said::Anywhere(change) => sink.add_everywhere(transaction, &change),
                }
            }
        };
        let sink = &mut out.sink;
        for (transaction, end) in &touched.done {
            hand_on(sink, *transaction);
            sink.commit(*transaction, *end);
        }
        // What is left belongs to the transaction that still arrives.
        if let Some(current) = touched.users.values().map(|touching| touching.last).max_by_key(|last| last.commit_lsn) {
            hand_on(sink, current);
        }
        Ok(())
    }

    /// The transactions that have to be visible in the reading.
    fn xids(&self) -> Vec<Xid> {
        let touching = self.users.values().chain(self.indirect.values().flat_map(HashMap::values));
        let done = self.done.iter().map(|(transaction, _)| transaction.moment.xid);
        let mut xids: Vec<Xid> = done.chain(touching.map(|touching| touching.last.moment.xid)).collect();
        xids.sort_unstable_by_key(|xid| xid.0);
        xids.dedup();
        xids
    }

    /// What the reading makes of everybody who was touched, and whether the user may be new to the tenant. `id_at`: which part of the key is the user's id.
    fn outcome(&self, found: Vec<Row>, id_at: usize) -> Vec<(Transaction, Said, bool)> {
        let mut has: HashMap<&[String], Vec<Option<String>>> = HashMap::new();
        let mut outcome = Vec::with_capacity(found.len());
        for Row { key, tenant, mut user } in found {
            let Some((key, touching)) = self.users.get_key_value(&key) else { continue };
            has.entry(key).or_default().push(tenant.clone());
            if user.updated_at_derived && !touching.born {
                user.updated_at = Some(touching.last.moment.commit_time);
            }
            outcome.push((touching.last, Said::To(tenant, Change::Upsert(user)), touching.comes));
        }
        for (key, touching) in &self.users {
            let has = has.remove(&key[..]).unwrap_or_default();
            let Some(id) = key.get(id_at) else { continue };
            let delete = |at: &Transaction| Change::Delete { id: id.as_str().into(), at: at.moment.commit_time };
            if let (Some(at), true) = (&touching.anywhere, has.is_empty()) {
                outcome.push((*at, Said::Anywhere(delete(at)), false));
                continue;
            }
            for (gone, at) in touching.tenants.iter().filter(|(tenant, _)| !has.contains(tenant)) {
                outcome.push((*at, Said::To(gone.clone(), delete(at)), false));
            }
        }
        outcome
    }
}

impl Touching {
    /// The same user was touched in another way, too.
    fn join(&mut self, other: &Touching) {
        if other.last.commit_lsn > self.last.commit_lsn {
            self.last = other.last;
        }
        for (tenant, at) in &other.tenants {
            let named = self.tenants.entry(tenant.clone()).or_insert(*at);
            if at.commit_lsn > named.commit_lsn {
                *named = *at;
            }
        }
        self.anywhere = self.anywhere.or(other.anywhere);
        self.born &= other.born;
        self.comes |= other.comes;
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
