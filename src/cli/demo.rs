//! `demo`: the main job on throwaway servers.

use clap::Args;
use std::process::ExitCode;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// How long people come and go before source and targets are compared.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
}

#[expect(clippy::unused_async, reason = "the demo is awaited here")]
pub(super) async fn execute(arguments: &Arguments) -> miette::Result<ExitCode> {
    Err(miette::miette!("`demo` is not built yet ({} s asked for)", arguments.seconds))
}
