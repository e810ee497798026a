//! Replies to publishes that tonic rejects before any handler receives them: too large, compressed, or not
//! protobuf.
//!
//! The statuses of tonic carry no outcome. A publisher must treat a status without one as unknown, and
//! would repeat the message until its deadline.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use pushonce_core::Publish;
use pushonce_proto::client::ErrorCode;
use pushonce_proto::error_details::ErrorReason;
use pushonce_proto::publisher::OUTCOME_HEADER;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::{Code, Status};

use crate::server::MESSAGE_BYTES_MAX;

/// The methods that publish.
pub(crate) const PUBLISH_METHODS: [&str; 2] = [
    "/pushonce.publisher.v1.PublisherService/Publish",
    "/pushonce.publisher.v1.PublisherService/PublishStream",
];

/// Adds the outcome of the protocol to publishes that tonic rejects.
#[derive(Clone, Debug)]
pub(crate) struct DecodeErrorService<S>(pub(crate) S);

impl<S: NamedService> NamedService for DecodeErrorService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B, R> Service<http::Request<B>> for DecodeErrorService<S>
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
        let is_publish = PUBLISH_METHODS.contains(&request.uri().path());
        let response = self.0.call(request);
        Box::pin(async move {
            let response = response.await?;
            if !is_publish {
                return Ok(response);
            }
            // A status in the headers is created before the first byte of a response. The statuses of
            // handlers carry an outcome, so one without is tonic's, and no handler was called.
            let status = Status::from_header_map(response.headers());
            let decode_error = status.filter(is_decode_error);
            Ok(decode_error.map_or(response, |status| decode_error_status(&status).into_http()))
        })
    }
}

/// Whether the decoder of tonic created this status for a message that it could not read.
///
/// The other codes of tonic are for broken connections, which no client reads.
pub(crate) fn is_decode_error(status: &Status) -> bool {
    let codes = [Code::OutOfRange, Code::ResourceExhausted, Code::Unimplemented, Code::Internal];
    codes.contains(&status.code()) && !status.metadata().contains_key(OUTCOME_HEADER)
}

/// The status for a message that could not be decoded, or for the stream that it was part of.
///
/// The code is always `INVALID_ARGUMENT`: by the protocol a publisher does not retry it. The metadata are
/// kept: `grpc-accept-encoding` lists the supported compression.
pub(crate) fn decode_error_status(error: &Status) -> Status {
    let (message_bytes_max, payload_bytes_max) = (MESSAGE_BYTES_MAX, Publish::PAYLOAD_BYTES_CAP);
    let (reason, text) = match error.code() {
        Code::OutOfRange | Code::ResourceExhausted => (
            ErrorCode::TooLarge,
            format!(
                "the message is larger than {message_bytes_max} bytes; \
                 send payloads of at most {payload_bytes_max}"
            ),
        ),
        Code::Unimplemented => (
            ErrorCode::NotSupported,
            format!("{}; send messages without compression", error.message()),
        ),
        _ => (
            ErrorCode::BadRequest,
            format!(
                "the request cannot be decoded as the message that pushonce.publisher.v1 defines: {}",
                error.message()
            ),
        ),
    };
    let mut status = ErrorReason::from(reason).to_status(Code::InvalidArgument, text);
    *status.metadata_mut() = error.metadata().clone();
    status.metadata_mut().insert(OUTCOME_HEADER, MetadataValue::from_static("refused"));
    status
}
