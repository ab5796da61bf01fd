//! `demo`: replication between throwaway servers.

use super::signals::signals;
use crate::cli::exit::ExitCode;
use crate::demo::Stay;
use crate::diagnostic::{Diagnostic, diagnostic};
use clap::Args;
use std::net::SocketAddr;
use std::time::Duration;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Seconds of simulated sign-ups and changes before source and targets are compared.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Also publish the changes to Kafka: host:port, comma-separated.
    #[arg(long, value_name = "BROKERS")]
    kafka: Option<String>,
    /// Keep the servers until Ctrl+C or SIGTERM, with the console and a page that shows both sides and takes changes.
    #[arg(long)]
    stay: bool,
    /// Loopback address and port of the page and the console. Default: 127.0.0.1:9187, or a free port if that is in use.
    #[arg(long, value_name = "ADDRESS", requires = "stay", value_parser = loopback)]
    listen: Option<SocketAddr>,
}

/// The demo has no password.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "not an address and port, such as 127.0.0.1:9187".to_owned())?;
    if !address.ip().is_loopback() {
        return Err("the demo has no password: use a loopback address, such as 127.0.0.1:9187".to_owned());
    }
    Ok(address)
}

pub(super) async fn execute(arguments: &Arguments) -> Result<ExitCode, Diagnostic> {
    let stop = signals().map_err(|error| diagnostic!("cannot handle signals: {error}"))?;
    let length = Duration::from_secs(arguments.seconds);
    let stay = arguments.stay.then_some(Stay { listen: arguments.listen });
    let shown = crate::demo::run(length, arguments.kafka.as_deref(), stay, stop, &mut std::io::stdout()).await;
    shown.map_err(|error| diagnostic!("{error}"))?;
    Ok(ExitCode::SUCCESS)
}
