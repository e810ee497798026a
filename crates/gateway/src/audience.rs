//! The port through which the gateway learns how many watch a topic.

use futures::future::BoxFuture;
use pushonce_core::{FetchError, Topic};

/// Knows how many sessions of the whole cluster watch a topic.
pub trait AudienceSource: Send + Sync + 'static {
    /// Asks its owner, or somebody who did a moment ago. The future has a deadline of its own: the
    /// gateway sets none.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] when nobody can say now.
    fn count(&self, topic: Topic) -> BoxFuture<'static, Result<u64, FetchError>>;
}
