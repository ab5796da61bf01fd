//! Changes under a query mapping: a changed row only tells which users it affects. The users of several transactions are
//! read together, by one query for all tenants, and then passed on as if each transaction had carried them.
//!
//! A read is ahead of the stream. Nothing older can follow it, because every later change is read, too.

use crate::map::{AffectedKey, KeyColumn, TenantRef, Unmappable, Via, Watch};
use crate::model::{Cell, Change, Lsn, Xid};
use crate::replicator::error::ServiceError;
use crate::replicator::reader::output::ChangeOutput;
use crate::replicator::reader::sink::{IsCreate, Sink, Transaction};
use crate::replicator::session::context::SessionContext;
use crate::replicator::source::mapping::WatchedTable;
use crate::replicator::source::point_read::{FollowedKey, ReadUser};
use std::collections::{HashMap, HashSet};

/// Users per read. All of them are in memory at once, and a profile may have hundreds of kilobytes.
const MAX_USERS_PER_READ: usize = 250;
/// Transactions that wait for one read. The visibility of each is checked separately.
const MAX_WAITING_TRANSACTIONS: usize = 10_000;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowEvent {
    Insert,
    Update,
    Delete,
}

/// The affected users and the transactions that wait for the next read.
#[derive(Default)]
pub(crate) struct AffectedUsers {
    /// By the query's key.
    users: HashMap<Vec<String>, PendingUser>,
    /// By keys that lead to users through another table.
    indirect: HashMap<Via, HashMap<Vec<String>, PendingUser>>,
    /// In the order of the stream.
    completed: Vec<CompletedTransaction>,
}

struct CompletedTransaction {
    transaction: Transaction,
    end: Lsn,
}

#[derive(Clone)]
struct PendingUser {
    last: Transaction,
    /// The tenants named in changed rows. A tenant that has lost the user gets the delete in the last transaction that
    /// named it, because a replay from a later position would not name it any more.
    tenants: HashMap<Option<String>, TenantMention>,
    /// Set if any tenant may have had the user until then.
    all_tenants: Option<Transaction>,
    /// The first change of the user was the insert of its own row.
    inserted: bool,
    /// A row was inserted or deleted, so the user may be new to a tenant.
    may_be_create: bool,
}

#[derive(Clone, Copy)]
struct TenantMention {
    last: Transaction,
    /// The first row that named the tenant was inserted.
    by_insert: bool,
}

/// A change that a read resulted in.
struct ResolvedChange {
    transaction: Transaction,
    change: RoutedChange,
    is_create: IsCreate,
}

enum RoutedChange {
    /// To the tenant with this key; `None` is the only tenant.
    ToTenant(Option<String>, Change),
    ToAll(Change),
}

impl AffectedUsers {
    pub(crate) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.indirect.is_empty() && self.completed.is_empty()
    }

    /// Whether the limits of one read are reached.
    pub(crate) fn is_full(&self) -> bool {
        let indirect = self.indirect.values().map(HashMap::len).sum::<usize>();
        self.users.len() + indirect >= MAX_USERS_PER_READ || self.completed.len() >= MAX_WAITING_TRANSACTIONS
    }

    /// Takes a row of a watched table, old or new.
    pub(crate) fn add_row(
        &mut self,
        watched: &WatchedTable,
        row: &[Cell<'_>],
        event: RowEvent,
        transaction: Transaction,
    ) -> Result<(), Unmappable> {
        let Some(AffectedKey { key, tenant }) = watched.plan.affected_key(row)? else { return Ok(()) };
        let key = key.into_iter().map(|part| part.into_owned()).collect();
        let fresh = || PendingUser {
            last: transaction,
            tenants: HashMap::new(),
            all_tenants: None,
            inserted: watched.is_users_own && event == RowEvent::Insert,
            may_be_create: false,
        };
        let users = match watched.plan.via() {
            None => &mut self.users,
            Some(via) => self.indirect.entry(via.clone()).or_default(),
        };
        let user = users.entry(key).or_insert_with(fresh);
        user.last = transaction;
        user.may_be_create |= event != RowEvent::Update;
        let tenant = match tenant {
            TenantRef::Only => None,
            TenantRef::Key(tenant) => Some(tenant.into_owned()),
            TenantRef::NoTenant => return Ok(()),
            TenantRef::Unsent => {
                if watched.is_users_own && event == RowEvent::Delete {
                    user.all_tenants = Some(transaction);
                }
                return Ok(());
            }
        };
        let mention = TenantMention { last: transaction, by_insert: event == RowEvent::Insert };
        user.tenants.entry(tenant).or_insert(mention).last = transaction;
        Ok(())
    }

    /// The transaction is complete. It is passed on at once if no user waits for a read.
    pub(crate) fn commit(&mut self, sink: &mut impl Sink, transaction: Transaction, end: Lsn) {
        if self.is_empty() {
            sink.commit(transaction, end);
        } else {
            self.completed.push(CompletedTransaction { transaction, end });
        }
    }

    /// Reads all affected users, then passes on the changes transaction by transaction.
    pub(crate) async fn resolve<S: Sink>(
        &mut self,
        output: &mut ChangeOutput<S>,
        context: &SessionContext,
    ) -> Result<(), ServiceError> {
        if self.is_empty() {
            return Ok(());
        }
        let mut affected = std::mem::take(self);
        let xids = affected.xids();
        for (via, indirect) in std::mem::take(&mut affected.indirect) {
            for FollowedKey { from, to } in context.rereader.follow_keys(&via, &xids, &texts(indirect.keys())).await? {
                if let Some(user) = indirect.get(&from) {
                    affected.users.entry(to).or_insert_with(|| user.clone()).merge(user);
                }
            }
        }
        let mut found = Vec::new();
        if !affected.users.is_empty() {
            let keys = texts(affected.users.keys());
            context.status.metrics.rereads.inc_by(keys.len() as u64);
            found = context.rereader.read_keys(&context.config, &xids, &keys).await?.users;
        }
        let existing: HashSet<&[String]> = found.iter().map(|user| &user.key[..]).collect();
        if affected.users.keys().any(|key| !existing.contains(&key[..])) {
            output.sink.without_tenant();
        }
        affected.attribute_deletes(&found, context, &xids).await?;
        let watched = context.config.users.query.iter().flat_map(|query| &query.watch);
        let mut own = watched.filter(|watch| watch.is_users_own);
        let has_one_tenant = context.config.users.tenant.is_none() || own.all(|watch| watch.tenant.is_some());
        let mut changes: HashMap<Lsn, Vec<ResolvedChange>> = HashMap::new();
        for change in affected.changes(found, context.config.users.id_in_key(), has_one_tenant) {
            changes.entry(change.transaction.commit_lsn).or_default().push(change);
        }
        let mut pass_on = |sink: &mut S, transaction: Transaction| {
            for ResolvedChange { change, is_create, .. } in changes.remove(&transaction.commit_lsn).unwrap_or_default()
            {
                match change {
                    RoutedChange::ToTenant(tenant, change) => {
                        sink.add(transaction, tenant.as_deref(), change, is_create);
                    }
                    RoutedChange::ToAll(change) => sink.add_to_all(transaction, &change),
                }
            }
        };
        let sink = &mut output.sink;
        for CompletedTransaction { transaction, end } in &affected.completed {
            pass_on(sink, *transaction);
            sink.commit(*transaction, *end);
        }
        // The remaining changes belong to the transaction that is still being received.
        if let Some(current) = affected.users.values().map(|user| user.last).max_by_key(|last| last.commit_lsn) {
            pass_on(sink, current);
        }
        Ok(())
    }

    /// Finds the tenants of users that no longer exist and whose own row named no tenant: rows of other tables that still
    /// exist name them, and rows deleted with the user have named theirs. Without such tables it may be any tenant.
    async fn attribute_deletes(
        &mut self,
        found: &[ReadUser],
        context: &SessionContext,
        xids: &[Xid],
    ) -> Result<(), ServiceError> {
        if self.users.values().all(|user| user.all_tenants.is_none()) {
            return Ok(());
        }
        let existing: HashSet<&[String]> = found.iter().map(|user| &user.key[..]).collect();
        let deleted = |key: &[String], user: &PendingUser| user.all_tenants.is_some() && !existing.contains(key);
        let deleted = self.users.iter().filter(|(key, user)| deleted(key, user));
        let deleted: Vec<Vec<String>> = deleted.map(|(key, _)| key.clone()).collect();
        let watched = context.config.users.query.iter().flat_map(|query| &query.watch);
        let others = watched.filter(|watch| !watch.is_users_own);
        let Some(naming) = others.map(Watch::leads_to_tenants).collect::<Option<Vec<_>>>() else { return Ok(()) };
        if deleted.is_empty() || naming.is_empty() {
            return Ok(());
        }
        for via in &naming {
            let followed = context.rereader.follow_keys(via, xids, &texts(deleted.iter())).await?;
            for FollowedKey { from: key, to: tenant } in followed {
                let Some(user) = self.users.get_mut(&key) else { continue };
                if let (Some(last), Some(tenant)) = (user.all_tenants, tenant.into_iter().next()) {
                    user.tenants.entry(Some(tenant)).or_insert(TenantMention { last, by_insert: false });
                }
            }
        }
        for key in &deleted {
            if let Some(user) = self.users.get_mut(key) {
                user.all_tenants = None;
            }
        }
        Ok(())
    }

    /// The transactions that the read has to see.
    fn xids(&self) -> Vec<Xid> {
        let users = self.users.values().chain(self.indirect.values().flat_map(HashMap::values));
        let completed = self.completed.iter().map(|completed| completed.transaction.commit.xid);
        let mut xids: Vec<Xid> = completed.chain(users.map(|user| user.last.commit.xid)).collect();
        xids.sort_unstable_by_key(|xid| xid.0);
        xids.dedup();
        xids
    }

    /// The changes of all affected users, given the users found. `id_at` is the user's id in the key;
    /// `has_one_tenant` means that a user's own row names its tenant.
    fn changes(&self, found: Vec<ReadUser>, id_at: KeyColumn, has_one_tenant: bool) -> Vec<ResolvedChange> {
        let mut tenants: HashMap<Vec<String>, Vec<Option<String>>> = HashMap::new();
        for ReadUser { key, tenant, .. } in &found {
            tenants.entry(key.clone()).or_default().push(tenant.clone());
        }
        let mut changes = Vec::with_capacity(found.len());
        for ReadUser { key, tenant, mut user } in found {
            let Some(pending) = self.users.get(&key) else { continue };
            if user.updated_at_derived && !pending.inserted {
                user.updated_at = Some(pending.last.commit.commit_time);
            }
            let current = tenants.get(&key).map(Vec::as_slice).unwrap_or_default();
            changes.push(ResolvedChange {
                transaction: pending.last,
                is_create: pending.is_create_for(&tenant, current, has_one_tenant),
                change: RoutedChange::ToTenant(tenant, Change::Upsert(user)),
            });
        }
        for (key, pending) in &self.users {
            let current = tenants.remove(&key[..]).unwrap_or_default();
            let Some(id) = id_at.of(key) else { continue };
            let delete = |transaction: &Transaction| Change::Delete {
                id: id.as_str().into(),
                at: transaction.commit.commit_time,
            };
            if let Some(transaction) = pending.all_tenants
                && current.is_empty()
            {
                let change = RoutedChange::ToAll(delete(&transaction));
                changes.push(ResolvedChange { transaction, change, is_create: IsCreate::No });
                continue;
            }
            for (tenant, mention) in pending.tenants.iter().filter(|(tenant, _)| !current.contains(tenant)) {
                let transaction = mention.last;
                let change = RoutedChange::ToTenant(tenant.clone(), delete(&transaction));
                changes.push(ResolvedChange { transaction, change, is_create: IsCreate::No });
            }
        }
        changes
    }
}

impl PendingUser {
    /// Whether the user is new to the tenant. `current` are the tenants that have the user now.
    fn is_create_for(&self, tenant: &Option<String>, current: &[Option<String>], has_one_tenant: bool) -> IsCreate {
        let is_new = if has_one_tenant {
            // It has left another tenant.
            self.tenants.keys().any(|mentioned| !current.contains(mentioned))
        } else {
            self.tenants.get(tenant).is_some_and(|mention| mention.by_insert)
        };
        if self.inserted || is_new {
            IsCreate::Yes
        } else if self.may_be_create {
            IsCreate::Unknown
        } else {
            IsCreate::No
        }
    }

    /// Adds what other rows said about the same user.
    fn merge(&mut self, other: &PendingUser) {
        if other.last.commit_lsn > self.last.commit_lsn {
            self.last = other.last;
        }
        for (tenant, theirs) in &other.tenants {
            let mention = self.tenants.entry(tenant.clone()).or_insert(*theirs);
            mention.by_insert &= theirs.by_insert;
            if theirs.last.commit_lsn > mention.last.commit_lsn {
                mention.last = theirs.last;
            }
        }
        self.all_tenants = self.all_tenants.or(other.all_tenants);
        self.inserted &= other.inserted;
        self.may_be_create |= other.may_be_create;
    }
}

fn texts<'a>(keys: impl Iterator<Item = &'a Vec<String>>) -> Vec<Vec<&'a str>> {
    keys.map(|key| key.iter().map(String::as_str).collect()).collect()
}
