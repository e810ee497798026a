//! Rotates the keys of TLS session tickets while this node leads the control group.

use std::time::{Duration, Instant};

use pushonce_core::{ClusterView, TicketKey, TicketKeys, Timestamp};
use pushonce_telemetry::LogLimiter;

use crate::{ControlCommand, ControlHandle};

/// How often the age of the key is checked: a new cluster has a key soon after its first node started.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl ControlHandle {
    /// Replaces the key whenever it is due and this node leads the group. Never returns. For nodes that serve TLS.
    /// `now` is the time of this node, and `random` returns an unpredictable key.
    pub async fn rotate_ticket_keys(
        self,
        now: impl Fn() -> Timestamp,
        random: impl Fn() -> TicketKey,
    ) {
        let limiter = LogLimiter::new();
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            let at = now();
            let is_due = self.view.borrow().as_deref().is_some_and(|view| is_due(view, at));
            if !is_due || !self.group.status().borrow().is_leader {
                continue;
            }
            let command = ControlCommand::RotateTicketKeys { key: random(), at };
            match self.propose_locally(command).await {
                Ok(()) => tracing::info!("replaced the key of TLS session tickets"),
                Err(error) => {
                    if let Some(suppressed) = limiter.allow(Instant::now()) {
                        tracing::warn!(%error, suppressed,
                            "cannot replace the key of TLS session tickets, retrying");
                    }
                }
            }
        }
    }
}

fn is_due(view: &ClusterView, now: Timestamp) -> bool {
    view.ticket_keys.as_ref().is_none_or(|keys: &TicketKeys| keys.is_rotation_due(now))
}
