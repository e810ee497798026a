//! Namespaces go from memory into the log while messages are published to them.

use std::time::Duration;

use tonic::async_trait;

use super::operator::{grpc_servers, run_until_success};
use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, on_loopback, secs,
};
use crate::cli::pushonce;

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "durability-switched",
    description: "a namespace goes from memory to replicated under load; the way back is refused without --force",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(DurabilitySwitch { current: None, remaining: NAMESPACES.to_vec() }),
};

/// The namespaces of the load. Both are in memory at first.
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

    /// The load begins after this.
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

    /// There is something in the log of that namespace once the way back would hide it.
    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        let namespace = self.current.expect("it was injected");
        tokio::time::sleep(secs(2)).await;
        let servers = grpc_servers(context);
        let switch_back =
            ["namespace", "set", namespace, "--durability", "memory", "--server", &servers[..]];
        let output = pushonce(switch_back, "").await;
        if !output.status.success() && output.stderr.contains("--force") {
            FaultState::Active
        } else {
            FaultState::Indeterminate(format!(
                "{namespace} may go back: {}{}",
                output.stdout, output.stderr
            ))
        }
    }

    async fn heal(&mut self, _: &mut FaultContext) {}
}
