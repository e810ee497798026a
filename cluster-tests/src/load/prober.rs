//! Somebody who asks every node all the time whether it is ready.

use std::time::Duration;

use tokio::task::JoinSet;

use super::Part;
use crate::history::{Event, Scribe};
use crate::node::Ports;
use crate::web;

const PAUSE: Duration = Duration::from_millis(200);

/// A node that sleeps does not answer; one that is there does at once.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn probe(part: Part) {
    let mut nodes = JoinSet::new();
    for (i, ports) in part.nodes.iter().enumerate() {
        nodes.spawn(probe_one(i, *ports, part.recorder.scribe("prober")));
    }
    part.until_over().await;
}

/// Writes down what changes.
async fn probe_one(node: usize, ports: Ports, scribe: Scribe) {
    let mut last = None;
    let mut is_silent = false;
    loop {
        let answer =
            tokio::time::timeout(PATIENCE, web::get(ports.http, "/health/ready", &[])).await;
        let was_silent = std::mem::replace(&mut is_silent, !matches!(answer, Ok(Ok(_))));
        if is_silent && !was_silent {
            scribe.write(Event::Silent { node });
        }
        if let Ok(Ok(answer)) = answer {
            let ready = answer.status == 200;
            if last != Some(ready) || was_silent {
                let because = if ready { "".into() } else { answer.body.into() };
                scribe.write(Event::Health { node, ready, because });
            }
            last = Some(ready);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
