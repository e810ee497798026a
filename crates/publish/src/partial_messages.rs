//! Bounds the gRPC messages that are only half received: their memory, by the budget of the node, and the time
//! until they are complete.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pushonce_auth::audit::Requester;
use pushonce_core::CallerKey;
use pushonce_listener::{Holding, MESSAGE_TIMEOUT, ReceiveBudget};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::error_details::ErrorReason;
use pushonce_proto::publisher::OUTCOME_HEADER;
use tokio::time::Sleep;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::{Code, Status};

use crate::server::remote_address;

/// Length of the prefix of a gRPC message: one byte of flags and four of length.
const PREFIX_BYTES: usize = 5;

/// When a caller whose message was evicted may retry.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// A service whose request messages are charged to the budget of the node until they are complete.
#[derive(Clone)]
pub(crate) struct PartialMessageService<S> {
    pub(crate) service: S,
    pub(crate) budget: ReceiveBudget,
}

impl<S: NamedService> NamedService for PartialMessageService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for PartialMessageService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (caller, budget) = (caller_key(request.extensions()), self.budget.clone());
        self.service.call(request.map(|body| {
            Body::new(PartialMessageBody {
                body,
                framing: MessageFraming::default(),
                budget,
                caller,
                partial: None,
            })
        }))
    }
}

/// The caller of a call: its token's subject where calls are authenticated, else its address.
fn caller_key(extensions: &http::Extensions) -> CallerKey {
    match extensions.get::<Arc<Requester>>() {
        Some(requester) => requester.key(),
        None => CallerKey::Address(remote_address(extensions).map(|address| address.ip()).into()),
    }
}

/// The body of a request, as far as its messages are not complete.
struct PartialMessageBody {
    body: Body,
    framing: MessageFraming,
    budget: ReceiveBudget,
    caller: CallerKey,
    /// The message that is half received, if there is one.
    partial: Option<PartialMessage>,
}

struct PartialMessage {
    holding: Holding,
    deadline: Pin<Box<Sleep>>,
}

/// Finds the ends of the messages in a body. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
struct MessageFraming {
    prefix: [u8; PREFIX_BYTES],
    /// Received bytes of the message that is not complete, including its prefix.
    received: usize,
    /// Length of the payload, once the prefix is complete.
    payload_bytes: usize,
}

impl MessageFraming {
    /// Follows received bytes. Returns whether a message ended in them.
    fn on_bytes(&mut self, mut bytes: &[u8]) -> bool {
        let mut has_ended = false;
        while !bytes.is_empty() {
            let taken = if self.received < PREFIX_BYTES {
                let taken = bytes.len().min(PREFIX_BYTES - self.received);
                self.prefix[self.received..self.received + taken].copy_from_slice(&bytes[..taken]);
                taken
            } else {
                bytes.len().min(PREFIX_BYTES + self.payload_bytes - self.received)
            };
            self.received += taken;
            bytes = &bytes[taken..];
            if self.received == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                // A length above the maximum ends the call as soon as tonic reads it.
                self.payload_bytes = u32::from_be_bytes(length) as usize;
            }
            if self.received >= PREFIX_BYTES && self.received == PREFIX_BYTES + self.payload_bytes {
                *self = MessageFraming::default();
                has_ended = true;
            }
        }
        has_ended
    }
}

impl PartialMessageBody {
    fn on_data(&mut self, data: &[u8]) -> Result<(), Status> {
        if self.framing.on_bytes(data) {
            self.partial = None;
        }
        let held = self.framing.received;
        if held == 0 {
            return Ok(());
        }
        let partial = self.partial.get_or_insert_with(|| PartialMessage {
            holding: self.budget.begin(self.caller),
            deadline: Box::pin(tokio::time::sleep(MESSAGE_TIMEOUT)),
        });
        partial.holding.set(held).map_err(|error| refused(error.to_string()))
    }

    /// Why the message that is half received is given up, if it is.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Option<Status> {
        let partial = self.partial.as_mut()?;
        if partial.holding.poll_evicted(cx.waker()) {
            return Some(refused(pushonce_listener::ReceiveBudgetExceeded.to_string()));
        }
        partial.deadline.as_mut().poll(cx).is_ready().then(|| {
            refused(format!(
                "the message was not complete within {MESSAGE_TIMEOUT:?}; send it faster"
            ))
        })
    }
}

impl http_body::Body for PartialMessageBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let refusal = match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                frame.data_ref().and_then(|data| self.on_data(data).err())
            }
            Poll::Ready(_) => None,
            Poll::Pending => self.poll_refusal(cx),
        };
        let Some(status) = refusal else { return polled };
        self.partial = None;
        self.body = Body::empty();
        Poll::Ready(Some(Err(status)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The message was not read, so the publish did not happen.
fn refused(text: String) -> Status {
    let reason = ErrorReason { retry_delay: Some(RETRY_DELAY), ..ErrorCode::Overloaded.into() };
    let mut status = reason.to_status(Code::ResourceExhausted, text);
    status.metadata_mut().insert(OUTCOME_HEADER, MetadataValue::from_static("refused"));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload_bytes: usize) -> Vec<u8> {
        let length = u32::try_from(payload_bytes).expect("small");
        [&[0][..], &length.to_be_bytes(), &vec![7; payload_bytes]].concat()
    }

    #[test]
    fn ends_of_messages_are_found_wherever_the_bytes_are_cut() {
        let bytes = [message(3), message(0), message(300)].concat();
        for piece in 1..=bytes.len() {
            let mut framing = MessageFraming::default();
            let ended = bytes.chunks(piece).filter(|part| framing.on_bytes(part)).count();
            assert_eq!(framing, MessageFraming::default(), "pieces of {piece}");
            assert!((1..=3).contains(&ended), "{ended} pieces of {piece} end a message");
        }
    }

    #[test]
    fn received_part_of_a_message_is_known() {
        let mut framing = MessageFraming::default();
        assert!(!framing.on_bytes(&message(10)[..7]));
        assert_eq!(framing.received, 7);
        assert!(framing.on_bytes(&[message(10)[7..].to_vec(), vec![0]].concat()));
        assert_eq!(framing.received, 1);
    }
}
