//! CPU time of the processes that replicate, from /proc.

use super::bed::{Bed, Process};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use tokio_postgres::Client;
use users_sync::throwaway::PostgresServer;

/// USER_HZ, the unit of the times in /proc/PID/stat, on all of Linux's architectures that PostgreSQL is packaged for.
const TICKS_PER_SECOND: f64 = 100.0;

/// The benchmark's own sessions, and the source's background processes, are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Walsender,
    /// The source's backends of users-sync, which read and write its state.
    SourceBackend,
    UsersSync,
    /// Of users-sync, or native's apply workers.
    TargetBackend,
    /// The target's checkpointer, WAL writer, launcher, ...
    TargetOther,
    Ignored,
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Kind::Walsender => "walsender",
            Kind::SourceBackend => "source's backends",
            Kind::UsersSync => "users-sync",
            Kind::TargetBackend => "target's backends",
            Kind::TargetOther => "target's other processes",
            Kind::Ignored => "ignored",
        }
    }
}

/// Seconds of CPU by kind of process.
pub struct Usage(BTreeMap<Kind, f64>);

impl Usage {
    /// Microseconds of all processes together for each of `changes`.
    pub fn per_change(&self, changes: u32) -> f64 {
        self.0.values().sum::<f64>() * 1e6 / f64::from(changes)
    }

    /// For a walsender that has ended: the system knows only the sum of all processes that have.
    pub fn with_ended_walsender(mut self) -> Usage {
        let ended = self.0.remove(&Kind::SourceBackend).unwrap_or_default();
        *self.0.entry(Kind::Walsender).or_default() += ended;
        self
    }

    pub fn print(&self, title: &str, changes: u32) {
        let mut line = format!("  CPU per change, {title}:");
        for (kind, seconds) in &self.0 {
            let _ = write!(line, " {} {:.1} us,", kind.title(), seconds * 1e6 / f64::from(changes));
        }
        println!("{line} together {:.1} us", self.per_change(changes));
    }
}

/// Times of a moment, in ticks.
struct Moment {
    source: Server,
    target: Server,
    process: u64,
}

/// One server's processes.
struct Server {
    /// Children of the postmaster, by process id.
    alive: BTreeMap<u32, u64>,
    postmaster: u64,
    /// Of all children that have ended so far.
    ended: u64,
}

/// Measures from its start to its end.
pub struct Meter {
    /// Connected before, because a new session costs CPU.
    clients: [Client; 2],
    from: Moment,
}

impl Meter {
    /// `process` is users-sync if it runs already; all of its CPU counts otherwise.
    pub async fn start(bed: &Bed, process: Option<&Process>) -> Meter {
        let clients = [bed.source.connect("postgres").await.unwrap(), bed.target.connect("postgres").await.unwrap()];
        Meter { clients, from: Moment::now(bed, process) }
    }

    /// Waits until the source's processes that were started since have ended, and the system has added up their times.
    pub async fn others_ended(&self, bed: &Bed) {
        let before = &self.from.source.alive;
        while Server::now(&bed.source).alive.keys().any(|pid| !before.contains_key(pid)) {
            tokio::time::sleep(super::bed::INTERVAL).await;
        }
    }

    pub async fn stop(self, bed: &Bed, process: Option<&Process>) -> Usage {
        let to = Moment::now(bed, process);
        let [source, target] = &self.clients;
        let mut kinds = BTreeMap::new();
        let spent = to.process - self.from.process;
        add(&mut kinds, Kind::UsersSync, spent);
        self.from.source.spent(
            &to.source,
            &kinds_of(source, source_kind).await,
            Kind::SourceBackend,
            Kind::Ignored,
            &mut kinds,
        );
        self.from.target.spent(
            &to.target,
            &kinds_of(target, target_kind).await,
            Kind::TargetBackend,
            Kind::TargetOther,
            &mut kinds,
        );
        kinds.remove(&Kind::Ignored);
        kinds.retain(|_, ticks| *ticks > 0);
        Usage(kinds.into_iter().map(|(kind, ticks)| (kind, ticks as f64 / TICKS_PER_SECOND)).collect())
    }
}

fn add(kinds: &mut BTreeMap<Kind, u64>, kind: Kind, ticks: u64) {
    *kinds.entry(kind).or_default() += ticks;
}

impl Server {
    /// Adds what was spent until `to`. Of processes that have ended, the system knows only the sum, which counts as `ended`;
    /// the postmaster counts as `other`.
    fn spent(
        &self,
        to: &Server,
        known: &BTreeMap<u32, Kind>,
        ended: Kind,
        other: Kind,
        kinds: &mut BTreeMap<Kind, u64>,
    ) {
        for (pid, ticks) in &to.alive {
            let before = self.alive.get(pid).copied().unwrap_or_default();
            add(kinds, known.get(pid).copied().unwrap_or(other), ticks.saturating_sub(before));
        }
        let gone = self.alive.iter().filter(|(pid, _)| !to.alive.contains_key(pid));
        let counted: u64 = gone.map(|(_, ticks)| *ticks).sum();
        add(kinds, ended, (to.ended - self.ended).saturating_sub(counted));
        add(kinds, other, to.postmaster - self.postmaster);
    }

    fn now(server: &PostgresServer) -> Server {
        let postmaster = server.pid().unwrap();
        let mut alive = BTreeMap::new();
        for entry in std::fs::read_dir("/proc").unwrap() {
            let name = entry.unwrap().file_name();
            let pid = name.to_str().and_then(|name| name.parse::<u32>().ok());
            if let Some((pid, stat)) = pid.and_then(|pid| Some((pid, Stat::read(pid)?)))
                && stat.parent == postmaster
            {
                alive.insert(pid, stat.own);
            }
        }
        let own = Stat::read(postmaster).unwrap();
        Server { alive, postmaster: own.own, ended: own.children }
    }
}

impl Moment {
    fn now(bed: &Bed, process: Option<&Process>) -> Moment {
        let process = process.and_then(|process| Stat::read(process.id())).map_or(0, |stat| stat.own);
        Moment { source: Server::now(&bed.source), target: Server::now(&bed.target), process }
    }
}

/// The times of /proc/PID/stat, user and system together.
struct Stat {
    parent: u32,
    own: u64,
    /// Of its children that have ended.
    children: u64,
}

impl Stat {
    /// `None` if the process has ended.
    fn read(pid: u32) -> Option<Stat> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses can hold spaces. The field after it is the third of proc(5).
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Stat {
            parent: u32::try_from(number(4)?).ok()?,
            own: number(14)? + number(15)?,
            children: number(16)? + number(17)?,
        })
    }
}

/// The kind of each process of a server, by its type and application.
async fn kinds_of(client: &Client, kind_of: fn(&str, &str) -> Kind) -> BTreeMap<u32, Kind> {
    activity(client).await.into_iter().map(|(pid, kind, name)| (pid, kind_of(&kind, &name))).collect()
}

fn source_kind(backend_type: &str, application_name: &str) -> Kind {
    match backend_type {
        "walsender" => Kind::Walsender,
        "client backend" if application_name.starts_with("users-sync") => Kind::SourceBackend,
        _ => Kind::Ignored,
    }
}

fn target_kind(backend_type: &str, application_name: &str) -> Kind {
    match backend_type {
        "logical replication launcher" => Kind::TargetOther,
        "client backend" if application_name.starts_with("users-sync") => Kind::TargetBackend,
        "client backend" => Kind::Ignored,
        // `logical replication worker` until PostgreSQL 16, then `logical replication apply worker` and others.
        worker if worker.starts_with("logical replication") => Kind::TargetBackend,
        _ => Kind::TargetOther,
    }
}

/// Process id, type and application_name of every process.
async fn activity(client: &Client) -> Vec<(u32, String, String)> {
    let sql = "SELECT pid, coalesce(backend_type, ''), coalesce(application_name, '') FROM pg_stat_activity";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get::<_, i32>(0).unsigned_abs(), row.get(1), row.get(2))).collect()
}
