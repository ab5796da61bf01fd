//! users-sync beside PostgreSQL's own logical replication: the same changes, the same servers, the same durability
//! settings, in the same run. Prints medians and ratios; `make bench` runs it.
//!
//! `cargo bench --bench replication -- drain large snapshot latency memory isolation scale kafka kafka-latency` runs some of it; `USERS_SYNC_RUNS=1`
//! makes it shorter.

// Every function here is a measurement's; what fails ends it.
#![allow(clippy::unwrap_used)]

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
        let asked = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
        for run in 1..=runs {
            println!("run {run} of {runs}");
            let bed = Bed::start().await;
            if asked("drain") {
                drain::single_row_transactions(&bed, &mut table).await;
            }
            if asked("large") {
                drain::one_large_transaction(&bed, &mut table).await;
            }
            if asked("snapshot") {
                snapshot::first_copy(&bed, &mut table).await;
            }
            if asked("latency") {
                latency::commit_to_visible(&bed, &mut table).await;
            }
            if asked("memory") {
                memory::many_tenants(&bed, &mut table).await;
            }
            if asked("isolation") {
                isolation::with_others_down(&bed, &mut table).await;
            }
            if asked("scale") {
                scale::a_thousand_tenants(&mut table).await;
            }
            #[cfg(feature = "kafka")]
            if asked("kafka") {
                kafka::drained(&bed, &mut table).await;
            }
            #[cfg(feature = "kafka")]
            if asked("kafka-latency") {
                kafka::commit_to_consumed(&bed, &mut table).await;
            }
        }
        table.print();
    });
}

/// What was measured: each run adds a value to a line.
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
