//! Logs to standard error, for people or for programs.

use super::LogFormat;
use std::io::{IsTerminal, stderr};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

pub(super) fn start(format: LogFormat, filter: &str) -> Result<(), ParseError> {
    // A bare level is ours alone: what libraries say at info is of no use to an operator.
    let filter = match filter.parse::<tracing::Level>() {
        Ok(level) => EnvFilter::try_new(format!("warn,users_sync={level}"))?,
        Err(_) => EnvFilter::try_new(filter)?,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match format {
        LogFormat::Text => builder.with_ansi(stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
