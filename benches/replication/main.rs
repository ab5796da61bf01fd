//! Compares users-sync with PostgreSQL's own logical replication in one run: same changes and servers, and the settings of
//! both printed. Prints medians and ratios beside the goals, and does not fail when one is missed; `make bench` runs it.
//!
//! `cargo bench --bench replication -- NAME...` runs only some of the parts that are listed below. `USERS_SYNC_RUNS=1` runs
//! each once instead of three times, `USERS_SYNC_SIZE=0.01` with a hundredth of the work, and `USERS_SYNC_PG_BIN` chooses the
//! servers' programs (`.ci/postgres MAJOR` prints those of a major). benches/peers.md measures other tools.

// A failure ends the measurement.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod size;
mod table;

mod bed;
mod settings;
mod side;
mod usage;

mod churn;
mod cpu;
mod drain;
mod isolation;
mod large;
mod latency;
mod limit;
mod memory;
mod scale;
mod snapshot;
mod tenants;

#[cfg(feature = "kafka")]
mod apply;
#[cfg(feature = "kafka")]
#[path = "../../tests/kafka/broker.rs"]
#[allow(dead_code)]
mod broker;
#[cfg(feature = "kafka")]
#[path = "../../tests/kafka/connect.rs"]
mod connect;
#[cfg(feature = "kafka")]
mod idle;
#[cfg(feature = "kafka")]
mod kafka;

use bed::Bed;
use table::Table;

/// In the order in which they run.
const PARTS: &[&str] = &[
    "drain",
    "large",
    "tenants",
    "cpu",
    "churn",
    "snapshot",
    "latency",
    "memory",
    "isolation",
    "scale",
    #[cfg(feature = "kafka")]
    "kafka",
    #[cfg(feature = "kafka")]
    "kafka-latency",
    #[cfg(feature = "kafka")]
    "apply",
    #[cfg(feature = "kafka")]
    "apply-sink",
    #[cfg(feature = "kafka")]
    "apply-idle",
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = wanted.iter().find(|name| !PARTS.contains(&name.as_str())) {
        eprintln!("there is no part {unknown:?}; there are {}", PARTS.join(", "));
        std::process::exit(2);
    }
    let runs = std::env::var("USERS_SYNC_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3);
    let parts: Vec<&str> =
        PARTS.iter().copied().filter(|part| wanted.is_empty() || wanted.iter().any(|name| name == part)).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut table = Table::default();
        for run in 1..=runs {
            println!("run {run} of {runs}");
            let bed = Bed::start().await;
            if run == 1 {
                settings::print(&bed).await;
            }
            for part in &parts {
                println!("{part}");
                measure(part, &bed, &mut table).await;
            }
        }
        table.print();
    });
}

async fn measure(part: &str, bed: &Bed, table: &mut Table) {
    match part {
        "drain" => drain::single_row_transactions(bed, table).await,
        "large" => large::one_transaction(bed, table).await,
        "tenants" => tenants::spread(table).await,
        "cpu" => cpu::per_change(bed, table).await,
        "churn" => churn::ten_updates_of_every_row(table).await,
        "snapshot" => snapshot::first_copy(bed, table).await,
        "latency" => latency::commit_to_visible(bed, table).await,
        "memory" => memory::many_tenants(bed, table).await,
        "isolation" => isolation::with_others_down(bed, table).await,
        "scale" => scale::a_thousand_tenants(table).await,
        #[cfg(feature = "kafka")]
        "kafka" => kafka::drained(bed, table).await,
        #[cfg(feature = "kafka")]
        "kafka-latency" => kafka::commit_to_consumed(bed, table).await,
        #[cfg(feature = "kafka")]
        "apply" => apply::from_the_topic(table).await,
        #[cfg(feature = "kafka")]
        "apply-sink" => apply::beside_a_sink(table).await,
        #[cfg(feature = "kafka")]
        "apply-idle" => idle::many_tenants(table).await,
        other => unreachable!("{other}"),
    }
}
