//! Log output: stderr, as text or JSON, without any line of a library that could hold row values.

use crate::config;
use crate::diagnostic::{Diagnostic, diagnostic};
use clap::ValueEnum;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::set_global_default;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

impl From<config::LogFormat> for LogFormat {
    fn from(format: config::LogFormat) -> LogFormat {
        match format {
            config::LogFormat::Text => LogFormat::Text,
            config::LogFormat::Json => LogFormat::Json,
        }
    }
}

/// Log options of the command line.
pub(super) struct Logging {
    pub(super) format: Option<LogFormat>,
    pub(super) level: String,
}

impl Logging {
    /// Starts logging to stderr. `configured` is the format if the command line gives none.
    pub(super) fn begin(&self, configured: LogFormat) -> Result<(), Diagnostic> {
        log_to_stderr(self.format.unwrap_or(configured), &self.level)
    }
}

fn log_to_stderr(format: LogFormat, level: &str) -> Result<(), Diagnostic> {
    let ours_alone = level.parse::<tracing::Level>().map(|level| format!("warn,users_sync={level}"));
    let targets: Targets = ours_alone.as_deref().unwrap_or(level).parse().map_err(|error| {
        diagnostic!(help = "for example: --log-level info,users_sync::capture=debug", "--log-level: {error}")
    })?;
    // Our spans name the session and the tenant of a line: they are there whatever the level of the line.
    let is_own_span = |metadata: &Metadata<'_>| metadata.is_span() && metadata.target().starts_with("users_sync");
    let filter =
        filter_fn(move |metadata| targets.would_enable(metadata.target(), metadata.level()) || is_own_span(metadata));
    let builder = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(std::io::stderr);
    // `init` would also forward messages that libraries write with the `log` crate: tokio-postgres logs parameters and
    // notices there, which hold row values. Setting it again in the same process fails and is harmless.
    let _ = match format {
        LogFormat::Text => {
            let builder = builder.with_target(false).with_ansi(std::io::stderr().is_terminal());
            set_global_default(builder.finish().with(filter))
        }
        LogFormat::Json => set_global_default(builder.json().flatten_event(true).finish().with(filter)),
    };
    log_panics();
    Ok(())
}

/// Logs where a panic happened. A formatted message is withheld: it may hold a row's value.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload().downcast_ref::<&str>().copied().unwrap_or("(withheld)");
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(location, message, backtrace, "internal error");
    }));
}
