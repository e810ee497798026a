//! A message of a session that is only half received: its memory and the time until it must be complete.

use std::pin::Pin;
use std::task::{Context, Poll};

use pushonce_listener::{Holding, MESSAGE_TIMEOUT, ReceiveBudgetExceeded};
use pushonce_proto::close::{self, CloseCode};
use tokio::time::Sleep;

/// The begun message. It exists only between two reads of a message, so that idle sessions hold nothing.
pub(crate) struct PartialMessage {
    holding: Holding,
    deadline: Pin<Box<Sleep>>,
}

impl PartialMessage {
    /// Begins a message, which must be complete within [`MESSAGE_TIMEOUT`].
    pub(crate) fn new(holding: Holding) -> PartialMessage {
        PartialMessage { holding, deadline: Box::pin(tokio::time::sleep(MESSAGE_TIMEOUT)) }
    }

    /// Sets the bytes that the message holds now.
    ///
    /// # Errors
    /// [`ReceiveBudgetExceeded`] when the session has to be closed for it.
    pub(crate) fn set_bytes(&mut self, bytes: usize) -> Result<(), ReceiveBudgetExceeded> {
        self.holding.set(bytes)
    }

    /// Ready with the reason to close the session, once there is one.
    pub(crate) fn poll_refused(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<(&'static CloseCode, String)> {
        if self.holding.poll_evicted(cx.waker()) {
            return Poll::Ready((&close::OVERLOADED, ReceiveBudgetExceeded.to_string()));
        }
        self.deadline.as_mut().poll(cx).map(|()| timeout())
    }
}

/// Why a session is closed whose message is not complete in time.
pub(crate) fn timeout() -> (&'static CloseCode, String) {
    let text = format!("a message was not complete within {MESSAGE_TIMEOUT:?}; send it faster");
    (&close::OVER_LIMIT, text)
}
