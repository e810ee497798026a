//! What the page of the demo asks of the node that serves it: the nodes and their counters, and to stop or start a
//! node. These routes exist only in the demo.
//!
//! The nodes are on loopback addresses and answer pages of the demo's own nodes only: the gateway rejects every
//! request of a page of another origin, also one that reads nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderName, HeaderValue, StatusCode, header};
use metrics_exporter_prometheus::PrometheusHandle;
use pushonce_demo::{ActionRejected, DemoControl, NodeAction, NodeState, NodeStatus};
use pushonce_gateway::{PageAccess, Pages};
use serde::Serialize;

use crate::node::NodeReader;

const NO_STORE: (HeaderName, HeaderValue) =
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// The readers of the running nodes, by name.
#[derive(Clone, Default)]
pub(super) struct NodeReaders(Arc<Mutex<BTreeMap<String, NodeReader>>>);

impl NodeReaders {
    pub(super) fn insert(&self, name: &str, reader: NodeReader) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), reader);
    }

    pub(super) fn remove(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The owner of each shard, as a node sees them that is up, by the name of the owner.
    fn owners(&self, nodes: &[NodeStatus]) -> Vec<Option<String>> {
        let readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_up = |node: &&NodeStatus| node.state == NodeState::Up;
        let mut up = nodes.iter().filter(is_up).filter_map(|node| readers.get(&node.name));
        up.next().map(NodeReader::shard_owners).unwrap_or_default()
    }
}

/// The routes of the demo.
#[derive(Clone)]
pub(super) struct ControlPages {
    pub(super) control: DemoControl,
    pub(super) readers: NodeReaders,
    pub(super) metrics: PrometheusHandle,
    pub(super) started_at: Instant,
}

/// The JSON of `GET /demo/state`.
#[derive(Serialize)]
struct DemoStateJson {
    nodes: Arc<[NodeStatus]>,
    /// The name of the owner of each shard.
    owners: Vec<Option<String>>,
    /// Since the start of the demo, of all nodes, which share a process.
    counters: Counters,
}

#[derive(Serialize)]
struct Counters {
    /// Publishes that were acknowledged.
    publishes: u64,
    /// Messages and other frames handed to subscribers.
    deliveries: u64,
    /// Bytes written to the sockets and streams of sessions.
    sent_bytes: u64,
    /// The time in which that happened.
    seconds: f64,
}

impl ControlPages {
    /// `GET /demo/state`, and `POST /demo/nodes/{number}/stop` and `…/start`.
    pub(super) fn pages(self) -> Pages {
        Pages::new()
            .page("/demo/state", PageAccess::Everyone, get(state).with_state(self.clone()))
            .page("/demo/nodes/{number}/{action}", PageAccess::Everyone, post(act).with_state(self))
    }
}

async fn state(State(pages): State<ControlPages>) -> Response {
    let nodes = pages.control.nodes();
    let owners = pages.readers.owners(&nodes);
    let text = pages.metrics.render();
    let counters = Counters {
        publishes: total(&text, "pushonce_publishes_total", "outcome=\"acknowledged\""),
        deliveries: total(&text, "pushonce_fanout_deliveries_total", ""),
        sent_bytes: total(&text, "pushonce_gateway_sent_bytes_total", ""),
        seconds: pages.started_at.elapsed().as_secs_f64(),
    };
    ([NO_STORE], Json(DemoStateJson { nodes, owners, counters })).into_response()
}

async fn act(
    State(pages): State<ControlPages>,
    Path((number, action)): Path<(usize, String)>,
) -> Response {
    let action = match action.as_str() {
        "stop" => NodeAction::Stop,
        "start" => NodeAction::Start,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    match pages.control.apply(number, action).await {
        Ok(()) => (StatusCode::ACCEPTED, [NO_STORE]).into_response(),
        Err(error) => (rejection_status(&error), [NO_STORE], error.to_string()).into_response(),
    }
}

fn rejection_status(error: &ActionRejected) -> StatusCode {
    match error {
        ActionRejected::UnknownNode(_) => StatusCode::NOT_FOUND,
        ActionRejected::OtherNodeNotUp(_) | ActionRejected::WrongState { .. } => {
            StatusCode::CONFLICT
        }
        ActionRejected::DemoEnded => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The sum of a counter over its labels in the text format of Prometheus. `label`: only samples with it.
fn total(text: &str, name: &str, label: &str) -> u64 {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let is_sample = labels.is_empty() || labels.starts_with('{');
        (is_sample && labels.contains(label)).then(|| value.parse::<u64>().ok())?
    });
    samples.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_is_summed_over_its_labels() {
        let text = "# HELP a_total Of all.\n# TYPE a_total counter\na_total{kind=\"x\"} 3\n\
                    a_total{kind=\"y\"} 4\na_total_more{kind=\"x\"} 9\nb_total 5\n";
        assert_eq!(total(text, "a_total", ""), 7);
        assert_eq!(total(text, "a_total", "kind=\"y\""), 4);
        assert_eq!(total(text, "b_total", ""), 5);
        assert_eq!(total(text, "c_total", ""), 0);
    }
}
