//! The results: one line for each figure, with the median of its runs and the goal.

use std::fmt;

/// What a figure has to reach. The benchmark prints whether it does, and does not fail.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Printed for comparison only.
    None,
    /// A multiple of the reference, and a lower limit.
    TimesAtLeast(f64),
    /// A multiple of the reference, and an upper limit.
    TimesAtMost(f64),
    /// An upper limit in the line's unit.
    AtMost(f64),
}

impl Goal {
    /// `None` without a goal or without the figures that it needs.
    fn is_met(self, ours: Option<f64>, reference: Option<f64>) -> Option<bool> {
        let times = ours.zip(reference).map(|(ours, reference)| ours / reference);
        match self {
            Goal::None => None,
            Goal::TimesAtLeast(limit) => times.map(|times| times >= limit),
            Goal::TimesAtMost(limit) => times.map(|times| times <= limit),
            Goal::AtMost(limit) => ours.map(|ours| ours <= limit),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::None => Ok(()),
            Goal::TimesAtLeast(limit) => write!(f, ">= {limit} x"),
            Goal::TimesAtMost(limit) => write!(f, "<= {limit} x"),
            Goal::AtMost(limit) => write!(f, "<= {limit}"),
        }
    }
}

/// The lines, in the order of their first run. Each run adds one value to a line.
#[derive(Default)]
pub struct Table {
    lines: Vec<Line>,
}

struct Line {
    what: String,
    unit: &'static str,
    ours: Vec<f64>,
    reference: Vec<f64>,
    goal: Goal,
}

impl Table {
    pub fn add(
        &mut self,
        what: impl Into<String>,
        unit: &'static str,
        ours: f64,
        reference: impl Into<Option<f64>>,
        goal: Goal,
    ) {
        let (what, reference) = (what.into(), reference.into());
        println!("  {what}: {} {unit}, reference {}", show(Some(ours)), show(reference));
        let known = self.lines.iter().position(|line| line.what == what);
        let index = known.unwrap_or_else(|| {
            self.lines.push(Line { what, unit, ours: Vec::new(), reference: Vec::new(), goal });
            self.lines.len() - 1
        });
        self.lines[index].ours.push(ours);
        self.lines[index].reference.extend(reference);
    }

    pub fn print(&mut self) {
        let runs = self.lines.iter().map(|line| line.ours.len()).max().unwrap_or_default();
        println!(
            "\n{:<86} {:>12} {:>12} {:>7}  {:<9} met",
            format!("median of {runs}"),
            "users-sync",
            "reference",
            "ratio",
            "goal"
        );
        for line in &mut self.lines {
            let (ours, reference) = (median(&mut line.ours), median(&mut line.reference));
            let ratio = ours.zip(reference).map(|(ours, reference)| ours / reference);
            let met = line.goal.is_met(ours, reference).map_or("", |met| if met { "yes" } else { "NO" });
            println!(
                "{:<86} {:>12} {:>12} {:>7}  {:<9} {met}",
                format!("{} ({})", line.what, line.unit),
                show(ours),
                show(reference),
                show(ratio),
                line.goal.to_string()
            );
        }
    }
}

fn show(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.2}"))
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
