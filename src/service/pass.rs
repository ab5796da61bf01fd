//! One pass over the source's table under a snapshot, its users sorted to the tenants that take part.

use super::ServiceError;
use super::join::Member;
use super::plans::compile_current;
use super::lanes::Lane;
use super::shared::Shared;
use crate::map::{TenantRef, tenants_condition};
use crate::model::{TenantKey, User};
use crate::pg::connect;
use crate::route::Directory;
use crate::snapshot::{Export, RowStream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Users are handed to a target in chunks of this size.
const CHUNK_BYTES: usize = 128 << 10;
/// Where there is no terminal, the progress is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Reads the table once; ends when every member has all its users, or has dropped out.
pub(super) async fn run(shared: &Shared, export: &Export, members: Vec<Member>) -> Result<(), ServiceError> {
    let client = connect(&shared.config.source.url).await?;
    export.import(&client).await?;
    let mapped = compile_current(&client, &shared.config.users).await?;
    let lanes = shared.lanes.all();
    let keys = members.iter().map(|member| &lanes[member.tenant].tenant.key);
    let condition = tenants_condition(&shared.config.users, &mapped.relation, keys);
    let estimate = "SELECT greatest(reltuples, 0)::float8 FROM pg_catalog.pg_class WHERE oid = $1";
    let expected: f64 = client.query_one(estimate, &[&mapped.relation.oid]).await?.get(0);
    let mut progress = Progress::new(expected as u64);
    tracing::info!(tenants = members.len(), position = %export.position, "snapshot begins");

    let mut sorter = Sorter::new(&lanes, members);
    let mut rows = RowStream::open(&client, &mapped.from, &mapped.relation, mapped.plan.decoded(), &condition).await?;
    while rows.advance().await? {
        let full = {
            let mut cells = Vec::with_capacity(mapped.relation.columns.len());
            rows.cells(&mut cells)?;
            match mapped.plan.insert(&cells) {
                Ok(Some((tenant, user))) => sorter.add(shared, &tenant, user),
                Ok(None) => None,
                Err(unmappable) => {
                    if let Some(so_far) = shared.count_unmappable() {
                        tracing::error!(so_far, reason = %unmappable, "a row is left out of the snapshot");
                    }
                    None
                }
            }
        };
        if let Some(index) = full {
            sorter.send(index, shared.config.limits.stall).await;
            if sorter.is_empty() {
                return Ok(());
            }
        }
        progress.row();
    }
    sorter.finish(shared.config.limits.stall).await;
    progress.finish();
    Ok(())
}

/// Users on their way to the members of a pass.
struct Sorter {
    members: Vec<Option<Receiving>>,
    directory: Directory<usize>,
}

struct Receiving {
    member: Member,
    chunk: Vec<User>,
    bytes: usize,
}

impl Sorter {
    fn new(lanes: &[Arc<Lane>], members: Vec<Member>) -> Sorter {
        let mut places = vec![None; lanes.len()];
        for (place, member) in members.iter().enumerate() {
            places[member.tenant] = Some(place);
        }
        // Of all tenants, so that one alone is known to be the only one; those that do not take part lead nowhere.
        let nobody = members.len();
        let places = places.into_iter().map(|place| place.unwrap_or(nobody)).zip(lanes);
        let places = places.filter(|(_, lane)| !lane.retired.is_cancelled());
        let directory =
            Directory::new(places.map(|(place, lane)| (&lane.tenant.id, &lane.tenant.key as &TenantKey, place)));
        let receiving = |member| Some(Receiving { member, chunk: Vec::new(), bytes: 0 });
        Sorter { members: members.into_iter().map(receiving).collect(), directory }
    }

    /// Takes a user; gives the member whose chunk is full by it.
    fn add(&mut self, shared: &Shared, tenant: &TenantRef<'_>, user: User) -> Option<usize> {
        let index = match tenant {
            TenantRef::Only => self.directory.only(),
            TenantRef::Key(key) => self.directory.find(key).ok(),
            TenantRef::Nobody | TenantRef::Unsent => None,
        }?;
        let receiving = self.members.get_mut(index)?.as_mut()?;
        shared.fingerprints().learn(receiving.member.tenant, &user);
        receiving.bytes += user.raw_json.len() + size_of::<User>();
        receiving.chunk.push(user);
        (receiving.bytes >= CHUNK_BYTES).then_some(index)
    }

    /// Hands a member its chunk. One that is gone, or takes nothing for `stall`, drops out: the others go on.
    async fn send(&mut self, index: usize, stall: Duration) {
        let Some(receiving) = self.members.get_mut(index).and_then(Option::as_mut) else { return };
        receiving.bytes = 0;
        let chunk = Some(std::mem::take(&mut receiving.chunk));
        if !matches!(timeout(stall, receiving.member.rows.send(chunk)).await, Ok(Ok(()))) {
            self.members[index] = None;
        }
    }

    fn is_empty(&self) -> bool {
        self.members.iter().all(Option::is_none)
    }

    async fn finish(mut self, stall: Duration) {
        for index in 0..self.members.len() {
            self.send(index, stall).await;
        }
        for receiving in self.members.into_iter().flatten() {
            // One that does not take it has dropped out, and knows it.
            let _ = timeout(stall, receiving.member.rows.send(None)).await;
        }
    }
}

/// How far the pass is: a bar on a terminal, log lines elsewhere.
struct Progress {
    bar: ProgressBar,
    rows: u64,
    logged: Instant,
}

impl Progress {
    /// `expected` rows, as the statistics have it; 0 where they do not know.
    fn new(expected: u64) -> Progress {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target((expected > 0).then_some(expected), target);
        if let Ok(style) = ProgressStyle::with_template("snapshot {bar:40} {human_pos} users, {per_sec}, {elapsed}") {
            bar.set_style(style);
        }
        Progress { bar, rows: 0, logged: Instant::now() }
    }

    fn row(&mut self) {
        self.rows += 1;
        if self.rows.is_multiple_of(1024) {
            self.bar.set_position(self.rows);
            if self.bar.is_hidden() && self.logged.elapsed() >= LOG_EVERY {
                self.logged = Instant::now();
                tracing::info!(rows = self.rows, "snapshot goes on");
            }
        }
    }

    fn finish(self) {
        self.bar.finish_and_clear();
        tracing::info!(rows = self.rows, "snapshot was read");
    }
}
