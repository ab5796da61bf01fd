//! The binary: parse, call the library, map an error to an exit code.

fn main() -> std::process::ExitCode {
    let path = std::env::args().nth(3).unwrap_or_default();
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let config = match users_sync::config::load(std::path::Path::new(&path)) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{:?}", miette::Report::new(error));
            return std::process::ExitCode::from(1);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stop = tokio_util::sync::CancellationToken::new();
        let stopper = stop.clone();
        tokio::spawn(async move {
            let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals");
            term.recv().await;
            stopper.cancel();
        });
        match users_sync::service::run(config, stop).await {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                std::process::ExitCode::from(1)
            }
        }
    })
}
