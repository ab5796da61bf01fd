//! Compares users-sync with PostgreSQL's own logical replication in one run: same changes, servers and durability settings.
//! Prints medians and ratios; `make bench` runs it.
//!
//! `cargo bench --bench replication -- NAME...` runs only some of drain, large, snapshot, latency, memory, isolation, scale,
//! kafka and kafka-latency. `USERS_SYNC_RUNS=1` runs each once instead of three times.

// A failure ends the measurement.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "../../tests/support/mod.rs"]
mod support;

mod bed;
#[cfg(feature = "kafka")]
#[path = "../../tests/kafka/broker.rs"]
#[allow(dead_code)]
mod broker;
mod drain;
mod isolation;
#[cfg(feature = "kafka")]
mod kafka;
mod latency;
mod memory;
mod scale;
mod snapshot;

use bed::Bed;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let runs = std::env::var("USERS_SYNC_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(3);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut table = Table::default();
        let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
        for run in 1..=runs {
            println!("run {run} of {runs}");
            let bed = Bed::start().await;
            if is_wanted("drain") {
                drain::single_row_transactions(&bed, &mut table).await;
            }
            if is_wanted("large") {
                drain::one_large_transaction(&bed, &mut table).await;
            }
            if is_wanted("snapshot") {
                snapshot::first_copy(&bed, &mut table).await;
            }
            if is_wanted("latency") {
                latency::commit_to_visible(&bed, &mut table).await;
            }
            if is_wanted("memory") {
                memory::many_tenants(&bed, &mut table).await;
            }
            if is_wanted("isolation") {
                isolation::with_others_down(&bed, &mut table).await;
            }
            if is_wanted("scale") {
                scale::a_thousand_tenants(&mut table).await;
            }
            #[cfg(feature = "kafka")]
            if is_wanted("kafka") {
                kafka::drained(&bed, &mut table).await;
            }
            #[cfg(feature = "kafka")]
            if is_wanted("kafka-latency") {
                kafka::commit_to_consumed(&bed, &mut table).await;
            }
        }
        table.print();
    });
}

/// The results. Each run adds one value to a line.
#[derive(Default)]
struct Table {
    lines: Vec<Line>,
}

struct Line {
    what: &'static str,
    unit: &'static str,
    ours: Vec<f64>,
    reference: Vec<f64>,
    goal: &'static str,
}

impl Table {
    fn add(&mut self, what: &'static str, unit: &'static str, ours: f64, reference: Option<f64>, goal: &'static str) {
        println!(
            "  {what}: {ours:.2} {unit}, reference {}",
            reference.map_or("-".into(), |value| format!("{value:.2}"))
        );
        let known = self.lines.iter().position(|line| line.what == what);
        let index = known.unwrap_or_else(|| {
            self.lines.push(Line { what, unit, ours: Vec::new(), reference: Vec::new(), goal });
            self.lines.len() - 1
        });
        self.lines[index].ours.push(ours);
        self.lines[index].reference.extend(reference);
    }

    fn print(&mut self) {
        println!("\n{:<62} {:>12} {:>12} {:>7}  goal", "median", "users-sync", "reference", "ratio");
        for line in &mut self.lines {
            let (ours, reference) = (median(&mut line.ours), median(&mut line.reference));
            let show = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
            let ratio = ours.zip(reference).map(|(ours, reference)| ours / reference);
            let what = format!("{} ({})", line.what, line.unit);
            println!("{what:<62} {:>12} {:>12} {:>7}  {}", show(ours), show(reference), show(ratio), line.goal);
        }
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
