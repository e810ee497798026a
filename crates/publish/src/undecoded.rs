//! The answer to a publish that tonic refuses before any handler sees it: it is over the decoder's bound,
//! compressed, or no protobuf.
//!
//! The statuses of tonic carry no outcome. A publisher must take a status without one for unknown, and
//! would repeat the message until its deadline.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use pushonce_core::Publish;
use pushonce_proto::publisher::OUTCOME_HEADER;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::{Code, Status};

use crate::server::MESSAGE_BYTES_MAX;

/// The calls that publish.
const CALLS: [&str; 2] =
    ["/pushonce.publisher.v1.Publisher/Publish", "/pushonce.publisher.v1.Publisher/PublishStream"];

/// Answers a publish that no handler sees in the words of the contract.
#[derive(Clone, Debug)]
pub(crate) struct Undecoded<S>(pub(crate) S);

impl<S: NamedService> NamedService for Undecoded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B, R> Service<http::Request<B>> for Undecoded<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let is_publish = CALLS.contains(&request.uri().path());
        let answer = self.0.call(request);
        Box::pin(async move {
            let response = answer.await?;
            if !is_publish {
                return Ok(response);
            }
            // A status in the headers is made before the first byte of an answer. That of a handler has
            // an outcome, so one without is of tonic, and no handler was called.
            let status = Status::from_header_map(response.headers());
            let undecoded = status.filter(is_of_decoder);
            Ok(undecoded.map_or(response, |status| refused(&status).into_http()))
        })
    }
}

/// Whether tonic's decoder made this status of a message that it could not read.
///
/// The other codes of tonic are of connections that broke. Nobody is there to read them.
pub(crate) fn is_of_decoder(status: &Status) -> bool {
    let codes = [Code::OutOfRange, Code::ResourceExhausted, Code::Unimplemented, Code::Internal];
    codes.contains(&status.code()) && !status.metadata().contains_key(OUTCOME_HEADER)
}

/// The status of a message that could not be decoded, which is also that of a stream it came in.
///
/// The code is `INVALID_ARGUMENT` whatever tonic said: by the contract a publisher does not repeat that
/// one. The metadata stay, of which `grpc-accept-encoding` says how a message may be compressed.
pub(crate) fn refused(of_decoder: &Status) -> Status {
    let (len, max) = (MESSAGE_BYTES_MAX, Publish::PAYLOAD_BYTES_CAP);
    let text = match of_decoder.code() {
        Code::OutOfRange | Code::ResourceExhausted => {
            format!("the message is over {len} bytes; no payload may have more than {max}")
        }
        Code::Unimplemented => {
            format!("{}; send messages without compression", of_decoder.message())
        }
        _ => format!(
            "the message cannot be read; send a pushonce.publisher.v1.PublishRequest: {}",
            of_decoder.message()
        ),
    };
    let mut status =
        Status::with_metadata(Code::InvalidArgument, text, of_decoder.metadata().clone());
    status.metadata_mut().insert(OUTCOME_HEADER, MetadataValue::from_static("refused"));
    status
}
