//! Log output: stderr, as text or JSON, without any line of a library that could hold row values.

use crate::config;
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::printable_line;
use crate::telemetry::{TARGET, TraceLayer};
use clap::ValueEnum;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{IsTerminal, Write};
use tracing::Metadata;
use tracing::subscriber::set_global_default;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
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
    /// Starts logging to stderr, and collecting spans. `configured` is the format if the command line gives none.
    pub(super) fn begin(&self, configured: LogFormat, traces: Option<TraceLayer>) -> Result<(), Diagnostic> {
        log_to_stderr(self.format.unwrap_or(configured), &self.level, traces)
    }
}

fn log_to_stderr(format: LogFormat, level: &str, traces: Option<TraceLayer>) -> Result<(), Diagnostic> {
    let ours_alone = level.parse::<tracing::Level>().map(|level| format!("warn,users_sync={level}"));
    let targets: Targets = ours_alone.as_deref().unwrap_or(level).parse().map_err(|error| {
        diagnostic!(help = "for example: --log-level info,users_sync::capture=debug", "--log-level: {error}")
    })?;
    // Our spans name the session and the tenant of a line: they are there whatever the level of the line.
    let is_own_span = |metadata: &Metadata<'_>| metadata.is_span() && metadata.target().starts_with("users_sync");
    let is_traced = traces.is_some();
    let filter = filter_fn(move |metadata| match metadata.target() {
        TARGET => is_traced,
        target => targets.would_enable(target, metadata.level()) || is_own_span(metadata),
    });
    let colored = format == LogFormat::Text && std::io::stderr().is_terminal();
    let writer = move || PrintableLines { to: std::io::stderr(), colored };
    // It would print to stderr, and panic where that is closed.
    let lines = fmt::layer().with_writer(writer).log_internal_errors(false);
    let subscriber = tracing_subscriber::registry().with(traces);
    // `init` would also forward messages that libraries write with the `log` crate: tokio-postgres logs parameters and
    // notices there, which hold row values. Setting it again in the same process fails and is harmless.
    let _ = match format {
        LogFormat::Text => {
            let lines = lines.with_target(false).with_ansi(colored);
            set_global_default(subscriber.with(lines).with(filter))
        }
        LogFormat::Json => set_global_default(subscriber.with(lines.json().flatten_event(true)).with(filter)),
    };
    log_panics();
    Ok(())
}

/// Writes log lines with control and bidirectional characters escaped, so that a text from outside can neither begin a
/// line nor steer a terminal. In JSON lines the escapes are those of JSON.
struct PrintableLines<W> {
    to: W,
    /// The line has colours of its own. The formatter has escaped those in texts.
    colored: bool,
}

impl<W: Write> Write for PrintableLines<W> {
    /// The formatter writes one line at a time.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let (text, end) = text.strip_suffix('\n').map_or((&*text, ""), |text| (text, "\n"));
        let mut shown = String::with_capacity(line.len());
        let mut rest = text;
        while let Some((before, colour, after)) = self.next_colour(rest) {
            shown.push_str(&printable_line(before));
            shown.push_str(colour);
            rest = after;
        }
        shown.push_str(&printable_line(rest));
        shown.push_str(end);
        self.to.write_all(shown.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

impl<W> PrintableLines<W> {
    /// Splits at the first colour: ESC, `[`, numbers, `m`.
    fn next_colour<'a>(&self, text: &'a str) -> Option<(&'a str, &'a str, &'a str)> {
        let starts = self.colored.then(|| text.match_indices("\x1b[")).into_iter().flatten();
        starts.into_iter().find_map(|(at, _)| {
            let numbers = text[at + 2..].bytes().take_while(|b| b.is_ascii_digit() || *b == b';').count();
            let end = at + 2 + numbers;
            text[end..].starts_with('m').then(|| (&text[..at], &text[at..=end], &text[end + 1..]))
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn written(line: &str, colored: bool) -> String {
        let mut out = Vec::new();
        PrintableLines { to: &mut out, colored }.write_all(line.as_bytes()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_text_from_outside_neither_begins_a_line_nor_steers_the_terminal() {
        let line = "ERROR refused: a\nERROR forged \u{1b}]0;t\u{7}\u{202e}\u{9b}2J\n";
        let expected = "ERROR refused: a\\nERROR forged \\u001b]0;t\\u0007\\u202e\\u009b2J\n";
        assert_eq!(written(line, false), expected);
        assert_eq!(written("{\"m\":\"\u{202e}\u{7f}\"}\n", false), "{\"m\":\"\\u202e\\u007f\"}\n");
    }

    #[test]
    fn the_formatters_own_colours_stay() {
        let line = "\u{1b}[31mERROR\u{1b}[0m a \u{1b}[2J b\n";
        assert_eq!(written(line, true), "\u{1b}[31mERROR\u{1b}[0m a \\u001b[2J b\n");
        assert_eq!(written(line, false), "\\u001b[31mERROR\\u001b[0m a \\u001b[2J b\n");
    }
}
