//! Who sends a request: a bearer token in the header (RFC 6750), or a one-use ticket in the query.
//!
//! A token is never taken from a query: URLs are written to the logs of proxies and to the history of browsers.

use std::net::IpAddr;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, Uri};
use pushonce_auth::audit::{self, Requester};
use pushonce_auth::{AccessControl, AccessError, Action, Caller, Ticket};
use pushonce_core::AccessToken;
use pushonce_proto::client::ErrorCode;

use super::HttpError;

/// The parameter that carries a ticket.
const TICKET: &str = "ticket";

/// Parameters in which other servers take tokens.
const TOKEN_PARAMETERS: [&str; 3] = ["token", "access_token", "authorization"];

/// What a request says about its caller.
#[derive(Debug)]
pub(crate) enum Credential {
    None,
    Bearer(AccessToken),
    Ticket(Ticket),
}

/// The address of a connection, as an extension of its requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RemoteIp(pub(crate) Option<IpAddr>);

/// The caller of a request, as an extractor. Requests with a token that is not valid are rejected with 401.
#[derive(Clone, Debug)]
pub struct Authenticated(pub Requester);

/// The result of the authentication, as an extension of the request.
#[derive(Clone)]
struct Authentication(Result<Requester, AccessError>);

impl Credential {
    /// Reads the credential of a request.
    ///
    /// # Errors
    /// 400 for a token in the query, for two credentials, and for a malformed one; 401 for another scheme than
    /// `Bearer`.
    pub(crate) fn from_request(
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<Credential, HttpError> {
        if let Some(pair) =
            query.unwrap_or_default().split('&').find(|pair| is_token_parameter(pair))
        {
            let (name, _) = parameter(pair);
            return Err(bad_request(format!(
                "a token in the query ({name}) ends up in logs; send it as Authorization: Bearer, as the \
                 subprotocol pushonce.token.TOKEN of a WebSocket, or get a one-use ticket with POST /tickets"
            )));
        }
        let ticket = query.unwrap_or_default().split('&').map(parameter);
        let ticket = ticket.into_iter().find(|(name, _)| *name == TICKET);
        let ticket = ticket.map(|(_, text)| Ticket::from_str(text)).transpose();
        let ticket = ticket.map_err(|error| bad_request(error.to_string()))?;
        match (bearer(headers)?, ticket) {
            (Some(_), Some(_)) => Err(bad_request("send a token or a ticket, not both".to_owned())),
            (Some(token), None) => Ok(Credential::Bearer(token)),
            (None, Some(ticket)) => Ok(Credential::Ticket(ticket)),
            (None, None) => Ok(Credential::None),
        }
    }

    /// Finds the caller. A node without issuers verifies no tokens.
    ///
    /// # Errors
    /// [`AccessError`] when the token or ticket is not valid now, or too many of the address were not.
    pub(crate) async fn authenticate(
        self,
        access: &AccessControl,
        RemoteIp(address): RemoteIp,
    ) -> Result<Caller, AccessError> {
        match self {
            Credential::Bearer(token) if !access.is_open() => {
                access.authenticate(&token, address.into()).await
            }
            Credential::Ticket(ticket) => access.redeem(&ticket, address.into()).await,
            Credential::None | Credential::Bearer(_) => Ok(access.without_token()),
        }
    }
}

/// The name and the value of a query parameter, as they are written.
fn parameter(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

/// Whether a pair of a query has the name under which other servers take tokens.
pub(crate) fn is_token_parameter(pair: &str) -> bool {
    let (name, _) = parameter(pair);
    TOKEN_PARAMETERS.iter().any(|token| name.eq_ignore_ascii_case(token))
}

/// The token of `Authorization: Bearer TOKEN`.
fn bearer(headers: &HeaderMap) -> Result<Option<AccessToken>, HttpError> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(bad_request("Authorization occurs more than once; send one".to_owned()));
    }
    let text = line.to_str().map_err(|_| {
        bad_request("Authorization has characters outside ASCII; send Bearer TOKEN".to_owned())
    })?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            Ok(Some(AccessToken::new(token.trim())))
        }
        _ => Err(HttpError::token_required(
            "only the scheme Bearer is supported; send Authorization: Bearer TOKEN",
        )),
    }
}

fn bad_request(text: String) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest.as_str(), text)
}

/// The middleware of all routes: authenticates each request, and removes the ticket from its query.
pub(crate) async fn authenticate(
    State(access): State<AccessControl>,
    mut request: Request,
    next: Next,
) -> Response {
    let credential = match Credential::from_request(request.headers(), request.uri().query()) {
        Ok(credential) => credential,
        Err(error) => return error.into_response(),
    };
    if matches!(credential, Credential::Ticket(_)) {
        if request.method() != Method::GET {
            let text = "a ticket permits GET; send Authorization: Bearer TOKEN instead";
            return bad_request(text.to_owned()).into_response();
        }
        remove_ticket(request.uri_mut());
    }
    let address = request.extensions().get::<RemoteIp>().and_then(|address| address.0);
    let authentication = credential.authenticate(&access, RemoteIp(address)).await;
    if let Err(error) = &authentication {
        audit::record_refusal(&access.without_token(), address, error);
    }
    let authentication = authentication.map(|caller| Requester { caller, address });
    request.extensions_mut().insert(Authentication(authentication));
    next.run(request).await
}

fn remove_ticket(uri: &mut Uri) {
    let query = uri.query().unwrap_or_default();
    let others: Vec<_> = query.split('&').filter(|pair| parameter(pair).0 != TICKET).collect();
    let path_and_query = match others[..] {
        [] => uri.path().to_owned(),
        _ => format!("{}?{}", uri.path(), others.join("&")),
    };
    let mut parts = std::mem::take(uri).into_parts();
    // A part of a valid query is valid.
    parts.path_and_query = path_and_query.parse().ok();
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// The middleware of a page that not everyone may read.
pub(crate) async fn require(
    State((access, action)): State<(AccessControl, Action<'static>)>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let authenticated = Authenticated::from_request_parts(&mut parts, &()).await;
    match authenticated.and_then(|caller| caller.authorize(&access, action)) {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(error) => error.into_response(),
    }
}

impl Authenticated {
    /// Decides whether the caller may do `action`, and logs a refusal.
    ///
    /// # Errors
    /// 401 or 403 with the reason.
    pub(crate) fn authorize(
        &self,
        access: &AccessControl,
        action: Action<'_>,
    ) -> Result<(), HttpError> {
        let Requester { caller, address } = &self.0;
        access.authorize(caller, action).map_err(|error| {
            audit::record_refusal(caller, *address, &error);
            HttpError::from(error)
        })
    }

    /// Whether the caller may do `action`, for a page that shows it more. A caller that may not is not refused.
    pub fn may(&self, access: &AccessControl, action: Action<'_>) -> bool {
        access.allows(&self.0.caller, action)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Authenticated {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Authenticated, HttpError> {
        match parts.extensions.get::<Authentication>() {
            Some(Authentication(Ok(requester))) => Ok(Authenticated(requester.clone())),
            Some(Authentication(Err(error))) => Err(error.clone().into()),
            // A route outside the middleware: nobody is let in.
            None => Err(HttpError::token_required("this page has no authentication")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(header: Option<&'static str>, query: &str) -> Result<Credential, u16> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, http::HeaderValue::from_static(header));
        }
        Credential::from_request(&headers, Some(query))
            .map_err(|error| error.into_response().status().as_u16())
    }

    #[test]
    fn token_is_taken_from_the_bearer_header_only() {
        for (header, query, expected) in [
            (None, "", Ok("none")),
            (Some("Bearer t"), "last=1", Ok("bearer")),
            (Some("bearer  t "), "", Ok("bearer")),
            (Some("Basic dTpw"), "", Err(401)),
            (Some("t"), "", Err(401)),
            (None, "token=t", Err(400)),
            (None, "last=1&Access_Token=t", Err(400)),
            (None, "ticket=zz", Err(400)),
        ] {
            let found = credential(header, query).map(|credential| match credential {
                Credential::None => "none",
                Credential::Bearer(token) => {
                    assert_eq!(token.secret(), "t");
                    "bearer"
                }
                Credential::Ticket(_) => "ticket",
            });
            assert_eq!(found, expected, "{header:?} {query}");
        }
    }

    #[test]
    fn ticket_is_removed_from_the_query_and_the_rest_stays() {
        for (before, after) in [
            ("/topics/a?ticket=x", "/topics/a"),
            ("/topics/a?last=1&ticket=x", "/topics/a?last=1"),
            ("/topics/a?ticket=x&audience", "/topics/a?audience"),
        ] {
            let mut uri: Uri = before.parse().unwrap();
            remove_ticket(&mut uri);
            assert_eq!(uri.to_string(), after);
        }
    }
}
