//! Authenticates the calls of the gRPC port, before any handler reads them.
//!
//! A handler finds the caller in the extensions of its request and asks [`authorize`] with what the request is
//! about. A call without a caller there was not authenticated, and is refused.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use pushonce_auth::audit::{self, Requester};
use pushonce_auth::{AccessControl, AccessError, Action, Caller, RefusalKind};
use pushonce_core::{AccessToken, ClientAddress, PublishRejection};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::error_details::ErrorReason;
use pushonce_proto::publisher::OUTCOME_HEADER;
use tonic::codegen::{Body, Service, http};
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::{Code, Extensions, Status};

use crate::decode_error::PUBLISH_METHODS;
use crate::server::remote_address;

/// The content type of a call; a suffix or parameters may follow (gRPC over HTTP/2).
const GRPC: &[u8] = b"application/grpc";

/// Whether calls without a token reach the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WithoutToken {
    /// The handlers decide what such a caller may do.
    Allowed,
    /// Reflection: it says nothing about the cluster, but a stranger needs no map of its interfaces.
    Refused,
}

/// A service whose calls are authenticated.
#[derive(Clone, Debug)]
pub(crate) struct AuthenticateService<S> {
    pub(crate) service: S,
    pub(crate) access: AccessControl,
    pub(crate) without_token: WithoutToken,
}

impl<S: NamedService> NamedService for AuthenticateService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B, R> Service<http::Request<B>> for AuthenticateService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        // The service that was polled ready makes the call; its clone may not be ready.
        let ready = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, ready);
        let (access, without_token) = (self.access.clone(), self.without_token);
        Box::pin(async move {
            if !is_call(request.headers()) {
                let mut response = http::Response::new(R::default());
                *response.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
                return Ok(response);
            }
            let address = remote_address(request.extensions()).map(|address| address.ip());
            let caller = match authenticate(&access, request.headers(), address.into()).await {
                Ok(caller) if caller.is_anonymous() && without_token == WithoutToken::Refused => {
                    return Ok(token_required().into_http());
                }
                Ok(caller) => caller,
                Err(Refusal::Malformed(status)) => return Ok(status.into_http()),
                Err(Refusal::Access(error)) => {
                    audit::record_refusal(&access.without_token(), address, &error);
                    return Ok(refused_status(&error).into_http());
                }
            };
            // Before any of the message is read.
            if PUBLISH_METHODS.contains(&request.uri().path())
                && let Err(error) = access.require_token(&caller, "publish")
            {
                audit::record_refusal(&caller, address, &error);
                return Ok(refused_status(&error).into_http());
            }
            request.extensions_mut().insert(Arc::new(Requester { caller, address }));
            service.call(request).await
        })
    }
}

/// Whether a request is a call. A browser sends requests of other types from any page to any server, over TLS also
/// as HTTP/2, and without asking the server before. A node without issuers would carry them out.
fn is_call(headers: &http::HeaderMap) -> bool {
    let content_type = headers.get(http::header::CONTENT_TYPE);
    let parts = content_type.and_then(|text| text.as_bytes().split_at_checked(GRPC.len()));
    parts.is_some_and(|(name, rest)| {
        name.eq_ignore_ascii_case(GRPC) && matches!(rest.first(), None | Some(b'+' | b';'))
    })
}

/// Why a call is not authenticated.
enum Refusal {
    Malformed(Status),
    Access(AccessError),
}

async fn authenticate(
    access: &AccessControl,
    headers: &http::HeaderMap,
    address: ClientAddress,
) -> Result<Caller, Refusal> {
    if access.is_open() {
        return Ok(access.without_token());
    }
    let mut lines = headers.get_all(http::header::AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Ok(access.without_token()) };
    let token = line.to_str().ok().and_then(|text| text.split_once(' '));
    match token {
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case("bearer") && lines.next().is_none() =>
        {
            let token = AccessToken::new(token.trim());
            access.authenticate(&token, address).await.map_err(Refusal::Access)
        }
        _ => Err(Refusal::Malformed(unauthenticated(
            "the metadata `authorization` must occur once, as Bearer TOKEN",
        ))),
    }
}

/// The caller of a request.
///
/// # Errors
/// UNAUTHENTICATED when the call did not pass [`AuthenticateService`].
pub(crate) fn requester(extensions: &Extensions) -> Result<Arc<Requester>, Status> {
    extensions.get().cloned().ok_or_else(token_required)
}

/// Decides whether a caller may do `action`, and logs a refusal.
///
/// # Errors
/// UNAUTHENTICATED or PERMISSION_DENIED with the reason.
pub(crate) fn authorize(
    access: &AccessControl,
    requester: &Requester,
    action: Action<'_>,
) -> Result<(), Status> {
    check(access, requester, action).map_err(|error| refused_status(&error))
}

/// As [`authorize`], for one message of a stream.
pub(crate) fn authorize_publish(
    access: &AccessControl,
    requester: &Requester,
    action: Action<'_>,
) -> Result<(), PublishRejection> {
    check(access, requester, action)
        .map_err(|error| PublishRejection::NotAllowed(error.to_string()))
}

fn check(
    access: &AccessControl,
    requester: &Requester,
    action: Action<'_>,
) -> Result<(), AccessError> {
    let Requester { caller, address } = requester;
    access
        .authorize(caller, action)
        .inspect_err(|error| audit::record_refusal(caller, *address, error))
}

/// The status of a refused call. It carries the outcome of a publish: nothing happened.
pub(crate) fn refused_status(error: &AccessError) -> Status {
    let (code, reason) = match error.kind() {
        RefusalKind::TokenRequired | RefusalKind::InvalidToken => {
            (Code::Unauthenticated, ErrorCode::NotAuthenticated)
        }
        RefusalKind::Expired => (Code::Unauthenticated, ErrorCode::TokenExpired),
        RefusalKind::NotAllowed => (Code::PermissionDenied, ErrorCode::NotAllowed),
        RefusalKind::Unavailable => (Code::Unavailable, ErrorCode::Unavailable),
        RefusalKind::TooManyFailures => (Code::ResourceExhausted, ErrorCode::Overloaded),
    };
    let reason = ErrorReason { retry_delay: error.retry_after(), ..reason.into() };
    refused(reason.to_status(code, error.to_string()))
}

/// The status of a call that needs a token and has none.
pub(crate) fn token_required() -> Status {
    unauthenticated("this call needs a token; send the metadata authorization: Bearer TOKEN")
}

fn unauthenticated(text: &str) -> Status {
    refused(ErrorReason::from(ErrorCode::NotAuthenticated).to_status(Code::Unauthenticated, text))
}

fn refused(mut status: Status) -> Status {
    status.metadata_mut().insert(OUTCOME_HEADER, MetadataValue::from_static("refused"));
    status
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn address_with_too_many_failures_is_told_when_to_retry() {
        let retry_after = Duration::from_secs(6);
        let status = refused_status(&AccessError::TooManyFailures { retry_after });
        assert_eq!(status.code(), Code::ResourceExhausted);
        let reason = ErrorReason::from_status(&status).expect("a reason");
        assert_eq!(reason.retry_delay, Some(retry_after));
    }
}
