//! The answer to a publish that is over the decoder's bound.
//!
//! tonic refuses such a message before any handler sees it, with `OUT_OF_RANGE` and no outcome. A
//! publisher must take a status without an outcome for unknown, and would repeat the message for ever.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use pushonce_core::{InvalidPublish, Publish};
use pushonce_proto::publisher::publish_status;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};

use crate::server::MESSAGE_BYTES_MAX;

/// The unary publish. No other reason than its size makes it `OUT_OF_RANGE`.
const PUBLISH: &str = "/pushonce.publisher.v1.Publisher/Publish";

/// Answers a message over the decoder's bound in the words of the contract.
#[derive(Clone, Debug)]
pub(crate) struct Oversize<S>(pub(crate) S);

impl<S: NamedService> NamedService for Oversize<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B, R> Service<http::Request<B>> for Oversize<S>
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
        let is_publish = request.uri().path() == PUBLISH;
        let answer = self.0.call(request);
        Box::pin(async move {
            let response = answer.await?;
            let status = Status::from_header_map(response.headers());
            let is_too_large = status.is_some_and(|status| status.code() == Code::OutOfRange);
            Ok(if is_publish && is_too_large { refused().into_http() } else { response })
        })
    }
}

/// The status of a message over the bound, which is also that of a stream it came in.
pub(crate) fn refused() -> Status {
    let (len, max) = (MESSAGE_BYTES_MAX, Publish::PAYLOAD_BYTES_CAP);
    let refused = publish_status(&InvalidPublish::PayloadTooLarge { len, max }.into());
    let text = format!("the message is over {len} bytes; no payload may have more than {max}");
    Status::with_metadata(refused.code(), text, refused.metadata().clone())
}
