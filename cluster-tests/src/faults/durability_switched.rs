//! Namespaces are switched from memory to replicated while messages are published to them.

use std::time::Duration;

use tonic::async_trait;

use super::operator::{grpc_servers, run_until_success};
use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, on_loopback, secs,
};
use crate::cli::pushonce;

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "durability-switch",
    description: "a namespace is switched from memory to replicated under load; switching back is refused without --force",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(DurabilitySwitch { current: None, remaining: NAMESPACES.to_vec() }),
};

/// The namespaces of the load. Both start with durability `memory`.
const NAMESPACES: [&str; 2] = ["game", "hot"];

struct DurabilitySwitch {
    current: Option<&'static str>,
    remaining: Vec<&'static str>,
}

#[async_trait(?Send)]
impl FaultInjector for DurabilitySwitch {
    fn duration(&self) -> Duration {
        secs(4)
    }

    fn rounds_max(&self) -> usize {
        NAMESPACES.len()
    }

    /// Sets the durability to `memory` before the load starts.
    async fn prepare(&mut self, context: &mut FaultContext) {
        for namespace in NAMESPACES {
            run_until_success(context, &["namespace", "set", namespace, "--durability", "memory"])
                .await;
        }
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let namespace = self.remaining.pop().ok_or("every namespace is replicated")?;
        run_until_success(context, &["namespace", "set", namespace, "--durability", "replicated"])
            .await;
        self.current = Some(namespace);
        Ok(FaultEffect::on_nodes(Vec::new()))
    }

    /// Confirmed when switching back is refused, because the log holds messages that it would hide.
    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        let namespace = self.current.expect("the fault was injected");
        tokio::time::sleep(secs(2)).await;
        let servers = grpc_servers(context);
        let switch_back =
            ["namespace", "set", namespace, "--durability", "memory", "--server", &servers[..]];
        let output = pushonce(switch_back, "").await;
        if !output.status.success() && output.stderr.contains("--force") {
            FaultState::Active
        } else {
            FaultState::Indeterminate(format!(
                "{namespace} can be switched back without --force: {}{}",
                output.stdout, output.stderr
            ))
        }
    }

    async fn heal(&mut self, _: &mut FaultContext) {}
}
