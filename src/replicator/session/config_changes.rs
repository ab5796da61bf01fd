//! Changes of the configuration while the process runs.

use crate::config::Config;
use tokio::sync::watch;

/// Waits until the configuration is replaced.
pub(crate) async fn replaced(configs: &mut watch::Receiver<Config>) {
    if configs.changed().await.is_err() {
        // The sender is dropped: the configuration cannot change.
        std::future::pending().await
    }
}
