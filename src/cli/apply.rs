//! `apply`: applies the users' topic in Kafka to the targets until a signal.

use super::common::ConfigFile;
use super::logging::Logging;
use super::run::{Reads, serve};
use crate::config::load_from;
use crate::diagnostic::{Diagnostic, diagnostic};
use std::process::ExitCode;

/// The configuration must name a consumer group. Servers that are down are waited for.
pub(super) async fn execute(logging: &Logging, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let config = load_from(&file.place())?.config;
    if config.kafka.and_then(|kafka| kafka.group).is_none() {
        let help = "set kafka.group; `run` then only publishes";
        return Err(diagnostic!(help = help, "kafka.group is not set: apply needs a consumer group"));
    }
    Box::pin(serve(Reads::Kafka, logging, file)).await
}
