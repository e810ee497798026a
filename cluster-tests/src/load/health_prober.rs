//! Polls the readiness of every node.

use std::time::Duration;

use tokio::task::JoinSet;

use super::WorkloadContext;
use crate::history::{HistoryEvent, ProcessRecorder};
use crate::http_client;
use crate::node::Ports;

/// A node that runs answers at once; a paused node does not answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) async fn run(context: WorkloadContext) {
    let mut nodes = JoinSet::new();
    for (i, ports) in context.nodes.iter().enumerate() {
        let interval = context.plan.probe_interval;
        nodes.spawn(probe_node(i, *ports, interval, context.recorder.for_process("prober")));
    }
    context.wait_over().await;
}

/// Polls one node. Records every report of readiness, so that the last one is known, and changes of all others.
async fn probe_node(
    node: usize,
    ports: Ports,
    interval: Duration,
    process_recorder: ProcessRecorder,
) {
    let mut last = None;
    let mut is_silent = false;
    loop {
        let answer =
            tokio::time::timeout(PROBE_TIMEOUT, http_client::get(ports.http, "/health/ready", &[]))
                .await;
        let was_silent = std::mem::replace(&mut is_silent, !matches!(answer, Ok(Ok(_))));
        if is_silent && !was_silent {
            process_recorder.record(HistoryEvent::Unreachable { node });
        }
        if let Ok(Ok(answer)) = answer {
            let ready = answer.status == 200;
            if ready || last != Some(ready) || was_silent {
                let reason = if ready { "".into() } else { answer.body.into() };
                process_recorder.record(HistoryEvent::Health { node, ready, reason });
            }
            last = Some(ready);
        }
        tokio::time::sleep(interval).await;
    }
}
