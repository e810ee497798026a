//! Nodes that are not members contact members: from the address of a killed member, or with a join request
//! that contains an invalid address. The members must continue to work, and must be able to restart.

use std::time::{Duration, Instant};

use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::membership_service_client::MembershipServiceClient;
use rand::Rng;
use rand::seq::IteratorRandom;
use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, on_loopback, secs,
};
use crate::http_client;
use crate::node::{ClusterNode, Ports};
use crate::wait::wait_until;

pub(super) const FOREIGN_NODE_AT_ADDRESS: FaultScenario = FaultScenario {
    name: "foreign-node-at-address",
    description: "a node is killed, a node of another cluster listens at its peer address, and a member restarts",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(ForeignNodeAtAddress(None)),
};

pub(super) const MALFORMED_JOIN: FaultScenario = FaultScenario {
    name: "malformed-join",
    description: "nodes ask to join with invalid addresses, and a member restarts with invalid addresses in its peers file",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(MalformedJoin { victim: None, all_refused: false }),
};

/// Selects the other addresses of the foreign node, which clients of the run never use.
const FOREIGN_NODE_INDEX: usize = 100;

/// The killed member, and the foreign node at its address.
struct ForeignNodeAtAddress(Option<(usize, ClusterNode)>);

#[async_trait(?Send)]
impl FaultInjector for ForeignNodeAtAddress {
    fn duration(&self) -> Duration {
        secs(3)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let killed =
            context.cluster.running_nodes().choose(&mut context.rng).ok_or("no node runs")?;
        let others: Vec<_> =
            context.cluster.running_nodes().filter(|&node| node != killed).collect();
        let restarted = others.into_iter().choose(&mut context.rng).ok_or("no other node runs")?;
        context.cluster.kill(killed);
        let peer = context.cluster.ports(killed).peer;
        let ports = Ports { peer, ..context.cluster.ports(FOREIGN_NODE_INDEX) };
        let foreign_node = context
            .cluster
            .start_foreign_node(FOREIGN_NODE_INDEX + context.rng.random_range(0..1_000_000), ports);
        wait_until("the foreign node answers", secs(30), async || {
            http_client::get(foreign_node.ports.http, "/health/live", &[]).await.map(drop)
        })
        .await;
        self.0 = Some((killed, foreign_node));
        context.cluster.kill(restarted);
        context.cluster.restart(restarted);
        Ok(FaultEffect::restart(vec![killed, restarted]))
    }

    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        let Some((_, foreign_node)) = &self.0 else {
            return FaultState::NotActive("there is no foreign node".to_owned());
        };
        // The members retry the address of the killed member every few seconds.
        let begun = Instant::now();
        while begun.elapsed() < secs(15) {
            let has_seen_foreign_node = |i| {
                context.cluster.node(i).log_text().contains("a node of another cluster listens")
            };
            if context.cluster.running_nodes().any(has_seen_foreign_node) {
                return FaultState::Active;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        FaultState::Indeterminate(format!(
            "no member detected the foreign node at {}",
            foreign_node.ports.peer
        ))
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        if let Some((killed, foreign_node)) = self.0.take() {
            drop(foreign_node);
            context.restart_if_stopped(killed);
        }
    }
}

struct MalformedJoin {
    victim: Option<usize>,
    all_refused: bool,
}

/// Addresses that cannot be dialled.
const INVALID_ADDRESSES: &[&str] = &["a b:7091", "http://a:7091", "a", "a:0", "[::1:7091", ""];

#[async_trait(?Send)]
impl FaultInjector for MalformedJoin {
    fn duration(&self) -> Duration {
        secs(3)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let queried =
            context.cluster.running_nodes().choose(&mut context.rng).ok_or("no node runs")?;
        let server = format!("http://{}", context.cluster.node(queried).ports.peer);
        let client = MembershipServiceClient::connect(server).await;
        let mut client = client.map_err(|error| format!("cannot connect to the node: {error}"))?;
        self.all_refused = true;
        for address in INVALID_ADDRESSES {
            let request = join_request(context.rng.random(), address);
            // A member that was accepted by mistake is found by its name.
            let answer =
                client.join(request).await.map_err(|error| error.to_string())?.into_inner();
            self.all_refused &= answer.refusal.is_some();
        }
        let victim =
            context.cluster.running_nodes().choose(&mut context.rng).ok_or("no node runs")?;
        context.cluster.kill(victim);
        let peers = context.cluster.node(victim).data_dir().join("peers");
        std::fs::write(peers, INVALID_ADDRESSES.join("\n")).map_err(|error| error.to_string())?;
        self.victim = Some(victim);
        Ok(FaultEffect::restart(vec![victim]))
    }

    async fn confirm(&mut self, _: &mut FaultContext) -> FaultState {
        match self.all_refused {
            true => FaultState::Active,
            false => FaultState::Indeterminate(
                "a join request with an invalid address was accepted".to_owned(),
            ),
        }
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        if let Some(victim) = self.victim.take() {
            context.restart_if_stopped(victim);
        }
    }
}

fn join_request(incarnation: u128, address: &str) -> pb::JoinRequest {
    pb::JoinRequest {
        incarnation: incarnation.to_be_bytes().to_vec().into(),
        name: format!("malformed-{incarnation:x}"),
        addresses: Some(pb::Addresses { peer: address.to_owned(), ..pb::Addresses::default() }),
        roles: "core,edge".to_owned(),
        weight: 1,
        run: 1,
        ..pb::JoinRequest::default()
    }
}
