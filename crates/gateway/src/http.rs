//! HTTP: the topic is the URL. Everything but `/ws`, which is spoken by hand in `ws`.

mod audience;
mod fault;
mod publish;
mod snapshot;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use pushonce_core::Topic;
use pushonce_fanout::Hub;
use pushonce_proto::client::ErrorCode;
use tokio::sync::watch;

pub(crate) use fault::Fault;

use crate::certificate::Fingerprint;
use crate::{Audience, Publisher};

/// What the routes work with.
#[derive(Clone)]
pub(crate) struct Http {
    pub(crate) hub: Hub,
    pub(crate) publisher: Arc<dyn Publisher>,
    pub(crate) audience: Arc<dyn Audience>,
    pub(crate) fingerprint: watch::Receiver<Fingerprint>,
    /// How long a client may take to send a body.
    pub(crate) body_timeout: Duration,
}

/// The routes of topics, and those of `extra`.
pub(crate) fn router(http: Http, extra: Router) -> Router {
    Router::new()
        .route("/topics/{*topic}", get(snapshot::get).post(publish::post))
        .route("/dev/certificate", get(certificate))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(http)
        .merge(extra)
        .fallback(not_found)
}

async fn certificate(State(http): State<Http>) -> Response {
    let mut response = Json(&*http.fingerprint.borrow()).into_response();
    snapshot::allow_any_origin(&mut response);
    response
}

async fn not_found() -> Fault {
    Fault::new(
        StatusCode::NOT_FOUND,
        "not_found",
        "there is nothing here; topics are at /topics/{topic}",
    )
}

async fn method_not_allowed() -> Fault {
    let text = "this method is not for this path; GET reads a topic, POST publishes to it";
    Fault::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text)
}

/// The topic of a path, percent-decoded.
fn topic(path: Result<Path<String>, PathRejection>) -> Result<Topic, Fault> {
    let bad =
        |text: String| Fault::new(StatusCode::BAD_REQUEST, ErrorCode::BadTopic.as_str(), text);
    let Path(name) = path.map_err(|rejection| bad(rejection.body_text()))?;
    Topic::new(&name).map_err(|invalid| bad(invalid.to_string()))
}
