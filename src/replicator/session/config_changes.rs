//! A configuration that is replaced while the process runs.

use crate::config::Config;
use tokio::sync::watch;

/// Waits until there is another configuration.
pub(crate) async fn replaced(configs: &mut watch::Receiver<Config>) {
    if configs.changed().await.is_err() {
        // Nobody can replace it any more.
        std::future::pending().await
    }
}
