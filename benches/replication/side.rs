//! The two that are compared: users-sync, and PostgreSQL's subscription in the ways that it is set up.

use super::bed::{Bed, Process, USERS};
use std::time::Instant;

/// What applies the changes.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    Ours,
    Native(Native),
}

/// How PostgreSQL's subscription and its table are set up.
#[derive(Clone, Copy, Debug)]
pub struct Native {
    pub title: &'static str,
    /// In the names of its database, subscription and slot.
    tag: &'static str,
    fillfactor: u8,
    /// Of CREATE SUBSCRIPTION; without any, its default is `synchronous_commit = off`.
    options: &'static str,
}

impl Native {
    pub const DEFAULT: Native = Native { title: "native", tag: "native", fillfactor: 100, options: "" };
    pub const LOOSE: Native =
        Native { title: "native, fillfactor 85", tag: "native_loose", fillfactor: 85, options: "" };
    pub const DURABLE: Native = Native {
        title: "native, synchronous_commit on",
        tag: "native_durable",
        fillfactor: 100,
        options: "synchronous_commit = on",
    };
    pub const DURABLE_LOOSE: Native = Native {
        title: "native, synchronous_commit on, fillfactor 85",
        tag: "native_durable_loose",
        fillfactor: 85,
        ..Native::DURABLE
    };
    /// For PostgreSQL 16 and 17.
    pub const PARALLEL: Native = Native {
        title: "native, streaming = parallel",
        tag: "native_parallel",
        fillfactor: 100,
        options: "streaming = parallel",
    };
    /// For PostgreSQL 16 and 17.
    pub const PARALLEL_LOOSE: Native = Native {
        title: "native, streaming = parallel, fillfactor 85",
        tag: "native_parallel_loose",
        fillfactor: 85,
        ..Native::PARALLEL
    };

    /// Its name, and that of its slot.
    pub fn subscription(self, name: &str) -> String {
        format!("{}_{name}", self.tag)
    }

    /// The table at the target.
    fn table(self) -> String {
        format!("{USERS} WITH (fillfactor = {})", self.fillfactor)
    }

    /// Creates table and subscription, waits for the initial copy, then disables it.
    async fn prepare(self, bed: &Bed, name: &str) {
        let (target, subscription) = (Side::Native(self).target(name), self.subscription(name));
        bed.target.create_database(&target).await.unwrap();
        bed.target.sql(&target, &self.table()).await.unwrap();
        bed.publish(name).await;
        let with = if self.options.is_empty() { String::new() } else { format!(" WITH ({})", self.options) };
        let create = format!(
            "CREATE SUBSCRIPTION {subscription} CONNECTION '{}' PUBLICATION native{with}",
            bed.source.url(name)
        );
        bed.target.sql(&target, &create).await.unwrap();
        bed.wait(&bed.target, &target, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel").await;
        self.switch(bed, name, false).await;
        let client = bed.target.connect(&target).await.unwrap();
        // The type of `substream` differs between majors.
        let effective = "SELECT format('synchronous_commit = %s, streaming = %s, binary = %s', subsynccommit, substream::text, \
                         subbinary) FROM pg_subscription WHERE subname = $1";
        let effective: String = client.query_one(effective, &[&subscription]).await.unwrap().get(0);
        println!("  {}: {effective}; table with fillfactor = {}", self.title, self.fillfactor);
    }

    async fn switch(self, bed: &Bed, name: &str, on: bool) {
        let (target, subscription) = (Side::Native(self).target(name), self.subscription(name));
        let verb = if on { "ENABLE" } else { "DISABLE" };
        bed.target.sql(&target, &format!("ALTER SUBSCRIPTION {subscription} {verb}")).await.unwrap();
        if !on {
            let inactive = format!("SELECT NOT active FROM pg_replication_slots WHERE slot_name = '{subscription}'");
            bed.wait(&bed.source, "postgres", &inactive).await;
        }
    }
}

impl Side {
    pub fn title(self) -> &'static str {
        match self {
            Side::Ours => "users-sync",
            Side::Native(native) => native.title,
        }
    }

    /// Its database at the target.
    pub fn target(self, name: &str) -> String {
        match self {
            Side::Ours => format!("{name}_ours"),
            Side::Native(native) => format!("{name}_{}", native.tag),
        }
    }

    /// Its table there.
    pub fn users(self) -> &'static str {
        match self {
            Side::Ours => "neon_auth.users_sync",
            Side::Native(_) => "users",
        }
    }

    /// Makes the initial copy. Changes wait in its slot from now on.
    pub async fn prepare(self, bed: &Bed, name: &str) {
        match self {
            Side::Ours => {
                let running = self.start(bed, name).await;
                bed.following(name, 1).await;
                running.stop(bed, name).await;
            }
            Side::Native(native) => native.prepare(bed, name).await,
        }
    }

    pub async fn start(self, bed: &Bed, name: &str) -> Running {
        let process = match self {
            Side::Ours => Some(bed.ours(name, &bed.one_tenant(name), false)),
            Side::Native(native) => {
                native.switch(bed, name, true).await;
                None
            }
        };
        Running { side: self, process }
    }

    /// Waits until every change that is committed now is visible at the target: changes one more user.
    pub async fn caught_up(self, bed: &Bed, name: &str) {
        let id = format!("mark-{}", bed.next());
        let insert = format!("INSERT INTO users (id, name, created_at) VALUES ('{id}', 'Mark', now())");
        bed.source.sql(name, &insert).await.unwrap();
        let seen = format!("SELECT true FROM {} WHERE id = '{id}'", self.users());
        bed.wait(&bed.target, &self.target(name), &seen).await;
    }
}

/// A side that applies changes.
pub struct Running {
    side: Side,
    pub process: Option<Process>,
}

impl Running {
    pub async fn stop(self, bed: &Bed, name: &str) {
        match (self.process, self.side) {
            (Some(process), _) => process.stop(),
            (None, Side::Native(native)) => native.switch(bed, name, false).await,
            (None, Side::Ours) => {}
        }
    }
}

/// Changes that wait in a slot.
pub struct Drained {
    pub seconds: f64,
    pub usage: super::usage::Usage,
}

/// Starts a side whose slot holds changes, and measures until `done` is true of a row at its target.
pub async fn drain(bed: &Bed, name: &str, side: Side, done: &str) -> Drained {
    bed.checkpoint().await;
    let sql = format!("SELECT true FROM {} WHERE {done}", side.users());
    let watch = bed.watch(&bed.target, &side.target(name), &sql).await;
    let meter = super::usage::Meter::start(bed, None).await;
    let started = Instant::now();
    let running = side.start(bed, name).await;
    watch.until_true().await;
    let seconds = started.elapsed().as_secs_f64();
    let usage = meter.stop(bed, running.process.as_ref()).await;
    if let Some(process) = &running.process {
        println!("  peak resident memory {:.0} MB", process.resident().peak);
    }
    running.stop(bed, name).await;
    Drained { seconds, usage }
}
