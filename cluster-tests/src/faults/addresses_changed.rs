//! Every node restarts at another peer address and learns the others' new addresses from `--join` alone.

use std::net::SocketAddr;
use std::time::Duration;

use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, ProcessSnapshot,
    on_loopback, secs,
};
use crate::node::Ports;

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "all-addresses-changed",
    description: "kill -9 of every node; each restarts at a new peer address, with --join naming the next node",
    nodes: 3,
    flags: &[],
    prepare: |_| {
        on_loopback(AddressesChanged { rounds: 0, processes_before: ProcessSnapshot::default() })
    },
};

struct AddressesChanged {
    /// Number of rounds so far; each round uses other ports.
    rounds: u16,
    processes_before: ProcessSnapshot,
}

#[async_trait(?Send)]
impl FaultInjector for AddressesChanged {
    fn duration(&self) -> Duration {
        secs(5)
    }

    /// Client ports stay the same, so that the load reaches the nodes again.
    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        self.rounds += 1;
        self.processes_before = context.running_processes();
        let nodes = self.processes_before.nodes();
        nodes.iter().for_each(|&node| context.cluster.kill(node));
        let new_ports = |node: usize| {
            let ports = context.cluster.ports(node);
            let peer = SocketAddr::new(ports.peer.ip(), ports.peer.port() + 100 + self.rounds);
            Ports { peer, ..ports }
        };
        let moves: Vec<_> = nodes.iter().map(|&node| (node, new_ports(node))).collect();
        for (i, &(node, ports)) in moves.iter().enumerate() {
            let (_, next) = moves[(i + 1) % moves.len()];
            context.cluster.node_mut(node).set_addresses(ports, &[next.peer]);
            context.cluster.restart(node);
        }
        Ok(FaultEffect { has_majority: false, ..FaultEffect::restart(nodes) })
    }

    /// Confirmed when every node lists the new address of every other node.
    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        context.wait_all_ready().await;
        let nodes = self.processes_before.nodes();
        for &queried in &nodes {
            let members = match context.cluster.status(queried).await {
                Ok(status) => status.members,
                Err(error) => return FaultState::Indeterminate(error),
            };
            for &node in &nodes {
                let address = context.cluster.node(node).ports.peer.to_string();
                if !members.iter().any(|member| member.peer_address == address) {
                    let reason = format!("node {queried} has no member at {address}: {members:?}");
                    return FaultState::Indeterminate(reason);
                }
            }
        }
        self.processes_before.confirm_replaced(context)
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        self.processes_before.nodes().into_iter().for_each(|node| context.restart_if_stopped(node));
    }
}
