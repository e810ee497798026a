//! Counts the calls in progress on each connection: [`CallConnection`](crate::connection::CallConnection) closes one
//! without any.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use crate::connection::{ConnectionInfo, OpenCall};

/// A service whose calls are in progress until the body of their response ends.
#[derive(Clone)]
pub(crate) struct OpenCallService<S>(pub(crate) S);

/// The body of a response, and its call.
struct OpenCallBody {
    body: Body,
    _call: Option<OpenCall>,
}

impl<S: NamedService> NamedService for OpenCallService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for OpenCallService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = request.extensions().get().map(ConnectionInfo::begin_call);
        let response = self.0.call(request);
        async move {
            let response = response.await?;
            Ok(response.map(|body| Body::new(OpenCallBody { body, _call: call })))
        }
        .boxed()
    }
}

impl http_body::Body for OpenCallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future;

    use super::*;
    use crate::connection::CallConnection;

    struct PendingBody;

    impl http_body::Body for PendingBody {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    /// Answers at once with a body that does not end.
    #[derive(Clone)]
    struct Endless;

    impl Service<http::Request<Body>> for Endless {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = future::Ready<Result<http::Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Self::Future {
            future::ready(Ok(http::Response::new(Body::new(PendingBody))))
        }
    }

    #[tokio::test]
    async fn call_is_in_progress_until_its_response_is_dropped() {
        let connection = CallConnection::new(());
        let info = connection.info(None);
        let mut request = http::Request::new(Body::empty());
        request.extensions_mut().insert(info.clone());
        let response = OpenCallService(Endless).call(request).await.expect("infallible");
        assert_eq!(info.open_calls(), 1);
        drop(response);
        assert_eq!(info.open_calls(), 0);
    }
}
