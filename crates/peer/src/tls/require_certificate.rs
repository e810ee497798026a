//! The gate of the peer port: a caller without a certificate may join, and nothing else.
//!
//! It stands before every service, so that no byte of a body is read for a stranger.

use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use super::PeerInfo;

/// The one call of a node that has no certificate yet.
const JOIN: &str = "/pushonce.peer.v1.MembershipService/Join";

/// Adds [`RequireCertificate`] to the services of the peer port.
#[derive(Clone, Copy, Debug)]
pub struct RequireCertificateLayer {
    /// Whether the port is secured. Without TLS there are no certificates.
    pub(crate) is_secured: bool,
}

/// Rejects calls of peers without a certificate.
#[derive(Clone, Debug)]
pub struct RequireCertificate<S> {
    inner: S,
    is_secured: bool,
}

impl<S> Layer<S> for RequireCertificateLayer {
    type Service = RequireCertificate<S>;

    fn layer(&self, inner: S) -> RequireCertificate<S> {
        RequireCertificate { inner, is_secured: self.is_secured }
    }
}

impl<S, B> Service<Request<B>> for RequireCertificate<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let node = request.extensions().get::<PeerInfo>().and_then(|info| info.node);
        if self.is_secured && node.is_none() && request.uri().path() != JOIN {
            let reason = "a node without a certificate may only join";
            return Either::Right(ready(Ok(Status::unauthenticated(reason).into_http())));
        }
        Either::Left(self.inner.call(request))
    }
}
