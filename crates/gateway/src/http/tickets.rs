//! `POST /tickets`: exchanges a token for a one-use ticket, for clients that cannot send a header.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CACHE_CONTROL;
use http::{HeaderValue, StatusCode};
use pushonce_auth::{Action, InvalidTicket, NewTicket, TICKET_TOPICS_MAX};
use pushonce_core::Topic;
use pushonce_proto::client::ErrorCode;
use rand::Rng;
use serde::Deserialize;
use serde_json::json;

use super::{Authenticated, HttpError, HttpState, request_body};

/// Fits [`TICKET_TOPICS_MAX`] topics of the largest length.
const BODY_BYTES_MAX: usize = 32 << 10;

/// The body: `{"topics":["chat/7"]}`, or empty for every topic that the token grants.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketRequest {
    topics: Option<Vec<String>>,
}

pub(super) async fn post(
    State(http): State<HttpState>,
    caller: Authenticated,
    body: Body,
) -> Result<Response, HttpError> {
    if caller.0.caller.is_anonymous() {
        return Err(HttpError::token_required(
            "a ticket stands for a token; send Authorization: Bearer TOKEN",
        ));
    }
    let payer = caller.0.key();
    let holding = http.limits.receive_budget.begin(payer);
    let body = request_body::read(body, BODY_BYTES_MAX, http.body_timeout, holding).await?;
    let request: TicketRequest = match body.is_empty() {
        true => TicketRequest::default(),
        false => serde_json::from_slice(&body)
            .map_err(|error| bad_request(format!("the body is not {{\"topics\":[…]}}: {error}")))?,
    };
    let topics = request.topics.map(parse_topics).transpose()?;
    for topic in topics.iter().flatten() {
        caller.authorize(&http.access, Action::Subscribe(topic))?;
    }
    let request = NewTicket {
        caller: &caller.0.caller,
        topics: topics.as_deref(),
        payer,
        random: rand::rng().random(),
    };
    let issued = http.access.tickets().issue(request, http.access.now());
    let (ticket, expires_at) = issued.map_err(ticket_error)?;
    let body = json!({"ticket": ticket.secret_text(), "expires": expires_at.0});
    let mut response = Json(body).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// A ticket's topics become patterns, in which `*` is a wildcard and would permit more than this topic.
fn parse_topics(names: Vec<String>) -> Result<Vec<Topic>, HttpError> {
    if names.is_empty() || names.len() > TICKET_TOPICS_MAX {
        let text = format!("name 1 to {TICKET_TOPICS_MAX} topics, or omit `topics`");
        return Err(bad_request(text));
    }
    let parse = |name: String| match Topic::new(&name) {
        Ok(topic) if !name.contains('*') => Ok(topic),
        Ok(_) => Err(bad_request(format!("a ticket cannot be bound to {name:?}: it has a '*'"))),
        Err(invalid) => Err(HttpError::from_code(ErrorCode::BadTopic, invalid.to_string())),
    };
    names.into_iter().map(parse).collect()
}

fn ticket_error(error: InvalidTicket) -> HttpError {
    HttpError::from_code(ErrorCode::Overloaded, error.to_string())
}

fn bad_request(text: String) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest.as_str(), text)
}
