//! `demo`: replication between throwaway servers.

use super::signals::signals;
use crate::diagnostic::{Diagnostic, diagnostic};
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Seconds of simulated sign-ups and changes before source and targets are compared.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Also publish the changes to Kafka: host:port, comma-separated.
    #[arg(long, value_name = "BROKERS")]
    kafka: Option<String>,
}

pub(super) async fn execute(arguments: &Arguments) -> Result<ExitCode, Diagnostic> {
    let stop = signals().map_err(|error| diagnostic!("cannot handle signals: {error}"))?;
    let length = Duration::from_secs(arguments.seconds);
    let shown = crate::demo::run(length, arguments.kafka.as_deref(), stop, &mut std::io::stdout()).await;
    shown.map_err(|error| diagnostic!("{error}"))?;
    Ok(ExitCode::SUCCESS)
}
