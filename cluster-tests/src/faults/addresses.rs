//! Every node comes back at another peer address, and knows the others' new ones by `--join` alone.

use std::net::SocketAddr;
use std::time::Duration;

use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Processes, Row, Stage, loopback, secs};
use crate::node::Ports;

pub(super) const ROW: Row = Row {
    name: "all-addresses-changed",
    story: "kill -9 of every node; each starts at a new peer address, with --join at the next one's",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Moved { rounds: 0, before: Processes::default() }),
};

struct Moved {
    /// How often the nodes have moved.
    rounds: u16,
    before: Processes,
}

#[async_trait(?Send)]
impl Fault for Moved {
    fn hold(&self) -> Duration {
        secs(5)
    }

    /// The ports for clients stay, so that the load finds the nodes again.
    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        self.rounds += 1;
        self.before = stage.processes();
        let nodes = self.before.nodes();
        nodes.iter().for_each(|&node| stage.cluster.kill(node));
        let moved = |node: usize| {
            let usual = stage.cluster.ports(node);
            let peer = SocketAddr::new(usual.peer.ip(), usual.peer.port() + 100 + self.rounds);
            Ports { peer, ..usual }
        };
        let moves: Vec<_> = nodes.iter().map(|&node| (node, moved(node))).collect();
        for (i, &(node, ports)) in moves.iter().enumerate() {
            let (_, next) = moves[(i + 1) % moves.len()];
            stage.cluster.node_mut(node).move_to(ports, &[next.peer]);
            stage.cluster.restart(node);
        }
        Ok(Effect { majority: false, ..Effect::restart(nodes) })
    }

    /// Every node has to name the new address of every other.
    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        stage.whole().await;
        let nodes = self.before.nodes();
        for &asked in &nodes {
            let members = match stage.cluster.status(asked).await {
                Ok(status) => status.members,
                Err(why) => return Confirmed::Indeterminate(why),
            };
            for &node in &nodes {
                let address = stage.cluster.node(node).ports.peer.to_string();
                if !members.iter().any(|member| member.peer_address == address) {
                    let what = format!("node {asked} has no member at {address}: {members:?}");
                    return Confirmed::Indeterminate(what);
                }
            }
        }
        self.before.replaced(stage)
    }

    async fn heal(&mut self, stage: &mut Stage) {
        self.before.nodes().into_iter().for_each(|node| stage.restart(node));
    }
}
