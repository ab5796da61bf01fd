//! Calls into librdkafka, which block.

use super::failure::Failure;
use tracing::Span;

/// librdkafka blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let span = Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    done.unwrap_or_else(|error| Err(Failure::plain(format!("a call to Kafka was interrupted: {error}"))))
}
