//! Loads a snapshot without the rows that the target refuses. Its users are written in batches as the stream's are: the same
//! values are refused, and the same rows fit after all.

use super::kept::{self, Known};
use super::loading::Loading;
use super::outcome::{LoadError, Loaded};
use super::progress_watch::ProgressWatch;
use super::spool::RowReceiver;
use crate::apply::{Isolation, MAX_REJECTED, Notify, Refusal, RefusedRow, RefusedUser, Shape, TargetError};
use crate::clock::now;
use crate::model::{Change, Deletes, IdHash, User};
use std::collections::{HashMap, HashSet};
use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

/// Users that are written with one statement.
const BATCH: usize = 1_000;

/// The hashes of the snapshot's ids: no encoding and no index refuses them.
const CREATE_KEYS: &str = "CREATE TEMPORARY TABLE users_sync_keys (key bytea PRIMARY KEY) ON COMMIT DROP";
const ADD_KEYS: &str =
    "INSERT INTO pg_temp.users_sync_keys SELECT unnest($1::bytea[]) ON CONFLICT DO NOTHING RETURNING key";
const COUNT_USERS: &str = "SELECT count(*) FILTER (WHERE deleted_at IS NULL), count(*) FROM neon_auth.users_sync";
/// `users_sync_absent`: the users that the snapshot does not have.
const CREATE_ABSENT: &str = "\
CREATE TEMPORARY TABLE users_sync_absent ON COMMIT DROP AS \
SELECT row_number() OVER () AS ordinal, u.id, u.deleted_at FROM neon_auth.users_sync u \
WHERE NOT EXISTS (SELECT FROM pg_temp.users_sync_keys k WHERE k.key = sha256(convert_to(u.id, 'UTF8')))";
const COUNT_ABSENT: &str = "SELECT count(*) FILTER (WHERE deleted_at IS NULL), count(*) FROM pg_temp.users_sync_absent";
const READ_ABSENT: &str = "\
SELECT id::text FROM pg_temp.users_sync_absent \
WHERE ordinal > $1 AND ordinal <= $1 + 1000 AND (deleted_at IS NULL OR $2)";

/// The load of one snapshot.
pub(super) struct IsolatedLoad<'a> {
    pub(super) transaction: &'a Transaction<'a>,
    pub(super) loading: &'a Loading<'a>,
    pub(super) shape: &'a Shape,
    pub(super) watch: &'a ProgressWatch,
}

/// What was refused so far.
#[derive(Default)]
struct Refused {
    /// The row alone decides.
    users: Vec<RefusedUser>,
    /// These may fit once others have given way.
    changes: Vec<(Change, Refusal)>,
}

impl IsolatedLoad<'_> {
    pub(super) async fn load(&self, rows: &mut RowReceiver) -> Result<Loaded, LoadError> {
        let (live, before) = self.count(COUNT_USERS).await?;
        self.transaction.batch_execute(CREATE_KEYS).await?;
        let mut refused = Refused::default();
        let mut read = 0;
        while let Some(users) = self.watch.pause(rows.next()).await? {
            read += users.len() as u64;
            let mut users = users.into_iter();
            loop {
                let batch: Vec<User> = users.by_ref().take(BATCH).collect();
                if batch.is_empty() {
                    break;
                }
                let changes = self.distinct(batch, before == 0, &mut refused).await?;
                self.write(changes, &mut refused).await?;
            }
        }
        let (_, with_new) = self.count(COUNT_USERS).await?;
        kept::spare(self.transaction, self.loading, Known::Keys).await?;
        let deleted = self.delete_absent(live, read, &mut refused).await?;
        kept::remember_marked(self.transaction, self.loading, Known::Keys).await?;
        let Refused { mut users, changes } = refused;
        let open = changes.iter().map(|(change, refusal)| RefusedRow { change, refusal: refusal.clone() }).collect();
        let progressed = || self.watch.progressed();
        users.extend(self.isolation(&progressed).settle(open).await?);
        check_limit(&users)?;
        let inserted = with_new - before;
        let updated = read.saturating_sub(inserted);
        Ok(Loaded { read, inserted, updated, deleted, rejected: users })
    }

    fn isolation<'p>(&'p self, progressed: &'p (dyn Fn() + Sync)) -> Isolation<'p, Transaction<'p>> {
        let Loading { deletes, size, .. } = *self.loading;
        Isolation { client: self.transaction, shape: self.shape, deletes, notify: Notify::Off, size, progressed }
    }

    async fn count(&self, sql: &str) -> Result<(u64, u64), LoadError> {
        let row = self.transaction.query_typed_one(sql, &[]).await?;
        self.watch.progressed();
        Ok((row.try_get::<_, i64>(0)?.unsigned_abs(), row.try_get::<_, i64>(1)?.unsigned_abs()))
    }

    /// The changes that write a batch. Of several rows with one id, the last one is taken, and the user is reported.
    async fn distinct(
        &self,
        batch: Vec<User>,
        is_empty: bool,
        refused: &mut Refused,
    ) -> Result<Vec<Change>, LoadError> {
        let mut last: HashMap<IdHash, usize> = HashMap::new();
        let mut twice: HashSet<IdHash> = HashSet::new();
        for (at, user) in batch.iter().enumerate() {
            let key = IdHash::of(&user.id);
            if last.insert(key, at).is_some() {
                twice.insert(key);
            }
        }
        let keys: Vec<&[u8]> = last.keys().map(IdHash::as_bytes).collect();
        let new = self.transaction.query_typed(ADD_KEYS, &[(&keys, Type::BYTEA_ARRAY)]).await?;
        self.watch.progressed();
        let new: HashSet<IdHash> =
            new.iter().filter_map(|row| row.try_get(0).ok().and_then(IdHash::from_stored)).collect();
        twice.extend(last.keys().filter(|key| !new.contains(key)));
        let mut kept: Vec<bool> = vec![false; batch.len()];
        last.values().for_each(|at| kept[*at] = true);
        let mut changes = Vec::with_capacity(last.len());
        for (mut user, _) in batch.into_iter().zip(kept).filter(|(_, kept)| *kept) {
            if twice.contains(&IdHash::of(&user.id)) {
                refused.users.push(RefusedUser { id: user.id.clone(), refusal: Refusal::duplicate() });
            }
            // A changed row with a derived time gets the time of the merge.
            if user.updated_at_derived && !is_empty {
                user.updated_at = Some(now());
            }
            changes.push(Change::Upsert(user));
        }
        Ok(changes)
    }

    async fn write(&self, changes: Vec<Change>, refused: &mut Refused) -> Result<(), LoadError> {
        let progressed = || self.watch.progressed();
        let mut reasons: HashMap<usize, Refusal> =
            self.isolation(&progressed).write_accepted(&changes).await?.into_iter().collect();
        for (at, change) in changes.into_iter().enumerate() {
            match reasons.remove(&at) {
                None => {}
                Some(refusal) if refusal.is_of_row() => {
                    refused.users.push(RefusedUser { id: change.id().into(), refusal });
                }
                Some(refusal) => refused.changes.push((change, refusal)),
            }
        }
        match refused.changes.first() {
            Some((_, first)) if refused.users.len() + refused.changes.len() > MAX_REJECTED => {
                Err(TargetError::too_many_refused(&first.reason).into())
            }
            _ => check_limit(&refused.users),
        }
    }

    /// Deletes the users that the snapshot does not have. Returns their number.
    async fn delete_absent(&self, live: u64, read: u64, refused: &mut Refused) -> Result<u64, LoadError> {
        self.transaction.batch_execute(CREATE_ABSENT).await?;
        let (absent, all) = self.count(COUNT_ABSENT).await?;
        let Loading { deletes, max_deletes, .. } = self.loading;
        let allowed = max_deletes.as_ref().map_or(live, |limit| limit.allowed(live, read, *deletes));
        if absent > allowed {
            return Err(LoadError::TooManyDeletes { absent, live, allowed });
        }
        let is_hard = *deletes == Deletes::Hard;
        for from in (0..all as i64).step_by(BATCH) {
            let page =
                self.transaction.query_typed(READ_ABSENT, &[(&from, Type::INT8), (&is_hard, Type::BOOL)]).await?;
            let delete = |row: &tokio_postgres::Row| {
                Ok::<_, tokio_postgres::Error>(Change::Delete { id: row.try_get::<_, &str>(0)?.into(), at: now() })
            };
            let changes: Vec<Change> = page.iter().map(delete).collect::<Result<_, _>>()?;
            self.write(changes, refused).await?;
        }
        Ok(if is_hard { all } else { absent })
    }
}

fn check_limit(users: &[RefusedUser]) -> Result<(), LoadError> {
    match users.last() {
        Some(last) if users.len() > MAX_REJECTED => Err(TargetError::too_many_refused(&last.refusal.reason).into()),
        _ => Ok(()),
    }
}
