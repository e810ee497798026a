//! The data of the console: JSON pages below `/console/data/` for operators, and the service by which nodes ask each
//! other for their parts.
//!
//! Everything is computed on demand, except one sample of the metrics a second. Each answer is bounded.

mod cluster;
mod exposition;
mod latency;
mod monitoring_service;
mod peers;
mod query;
mod rates;
mod sample_history;
mod samples;
mod sessions;
mod topic;
mod topics;

use std::sync::{Arc, OnceLock};

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use pushonce_auth::Action;
use pushonce_gateway::PageAccess::Requires;
use pushonce_gateway::{Pages, SessionInspector};
use serde::Serialize;
use serde_json::json;

use super::cluster_topics::ClusterTopics;
use super::overview::NodeOverview;
use super::owned_topics::OwnedTopics;

pub(super) use monitoring_service::Monitoring;
pub(super) use samples::run_sampler;

/// What the pages of the console read. Cheap to clone.
#[derive(Clone)]
pub(super) struct ConsoleData {
    pub(super) overview: NodeOverview,
    pub(super) topics: ClusterTopics,
    pub(super) local: LocalMonitoring,
}

/// What this node knows about itself. Cheap to clone.
#[derive(Clone)]
pub(super) struct LocalMonitoring {
    pub(super) owned: OwnedTopics,
    pub(super) samples: sample_history::SampleHistory,
    /// Empty until the gateway is bound.
    pub(super) inspector: Arc<OnceLock<SessionInspector>>,
}

/// Why a page has no answer.
#[derive(Debug, thiserror::Error)]
enum PageError {
    #[error(transparent)]
    Query(#[from] query::InvalidConsoleQuery),
    #[error(transparent)]
    Fetch(#[from] pushonce_core::FetchError),
}

impl LocalMonitoring {
    pub(super) fn new(owned: OwnedTopics) -> LocalMonitoring {
        LocalMonitoring { owned, samples: Default::default(), inspector: Arc::default() }
    }
}

/// The pages below `/console/data/`. All of them need the grant to read the state of the cluster.
pub(super) fn data_pages(data: &ConsoleData) -> Pages {
    let page = |pages: Pages, path, route: MethodRouter<ConsoleData>| {
        pages.page(path, Requires(Action::ReadCluster), route.with_state(data.clone()))
    };
    let pages = page(Pages::new(), "/console/data/cluster", get(cluster));
    let pages = page(pages, "/console/data/rates", get(rates));
    let pages = page(pages, "/console/data/topics", get(topics));
    let pages = page(pages, "/console/data/topic", get(topic));
    let pages = page(pages, "/console/data/explain", get(explain));
    page(pages, "/console/data/sessions", get(sessions))
}

type Query = RawQuery;

async fn cluster(State(data): State<ConsoleData>, RawQuery(query): Query) -> Response {
    respond(match query::parse_none(query.as_deref()) {
        Ok(()) => Ok(cluster::cluster(&data).await),
        Err(error) => Err(error.into()),
    })
}

async fn rates(State(data): State<ConsoleData>, RawQuery(query): Query) -> Response {
    respond(match query::parse_seconds(query.as_deref()) {
        Ok(seconds) => Ok(rates::rates(&data, seconds).await),
        Err(error) => Err(error.into()),
    })
}

async fn topics(State(data): State<ConsoleData>, RawQuery(query): Query) -> Response {
    respond(match query::parse_tree(query.as_deref()) {
        Ok(query) => Ok(topics::topics(&data, query).await),
        Err(error) => Err(error.into()),
    })
}

async fn topic(State(data): State<ConsoleData>, RawQuery(query): Query) -> Response {
    respond(match query::parse_topic(query.as_deref()) {
        Ok(topic) => topic::topic(&data, topic).await.map_err(PageError::from),
        Err(error) => Err(error.into()),
    })
}

async fn explain(State(data): State<ConsoleData>, RawQuery(query): Query) -> Response {
    respond(match query::parse_topic(query.as_deref()) {
        Ok(topic) => topic::explain(&data, &topic).map_err(PageError::from),
        Err(error) => Err(error.into()),
    })
}

async fn sessions(State(data): State<ConsoleData>, RawQuery(query): Query) -> Response {
    respond(match query::parse_limit(query.as_deref(), sessions::SESSIONS_MAX) {
        Ok(limit) => Ok(sessions::sessions(&data, limit).await),
        Err(error) => Err(error.into()),
    })
}

fn respond<T: Serialize>(result: Result<T, PageError>) -> Response {
    let (status, code, error) = match result {
        Ok(body) => return Json(body).into_response(),
        Err(PageError::Query(error)) => {
            (StatusCode::BAD_REQUEST, error.code(), PageError::from(error))
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", error),
    };
    let retry = status == StatusCode::SERVICE_UNAVAILABLE;
    let body = json!({"error": {"code": code, "message": error.to_string(), "retry": retry}});
    (status, Json(body)).into_response()
}
