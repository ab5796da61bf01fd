//! Calls into librdkafka, which block.

use crate::tee::kafka::Failure;

/// librdkafka blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Failure::plain(format!("a call to Kafka was interrupted: {error}"))))
}
