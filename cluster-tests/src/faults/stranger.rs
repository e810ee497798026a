//! Nodes that are no members talk to members: from the address of one that died, or to join with an
//! address that nobody can dial. The members go on, and start again.

use std::time::{Duration, Instant};

use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::membership_client::MembershipClient;
use rand::Rng;
use rand::seq::IteratorRandom;
use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};
use crate::node::{Node, Ports};
use crate::wait::until;
use crate::web;

pub(super) const AT_ADDRESS: Row = Row {
    name: "stranger-at-address",
    story: "a node dies, one of another cluster takes its peer address, and a member restarts",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(AtAddress(None)),
};

pub(super) const MALFORMED: Row = Row {
    name: "malformed-joiner",
    story: "nodes ask to join with invalid addresses, and a member restarts with invalid addresses in its peers file",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Malformed { victim: None, refused: false }),
};

/// Where the stranger's other doors are: clients of the run never dial these.
const ELSEWHERE: usize = 100;

/// The one that died, and the stranger in its place.
struct AtAddress(Option<(usize, Node)>);

#[async_trait(?Send)]
impl Fault for AtAddress {
    fn hold(&self) -> Duration {
        secs(3)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let dead = stage.cluster.running().choose(&mut stage.rng).ok_or("no node runs")?;
        let others: Vec<_> = stage.cluster.running().filter(|&node| node != dead).collect();
        let restarted = others.into_iter().choose(&mut stage.rng).ok_or("one node runs alone")?;
        stage.cluster.kill(dead);
        let peer = stage.cluster.ports(dead).peer;
        let ports = Ports { peer, ..stage.cluster.ports(ELSEWHERE) };
        let stranger =
            stage.cluster.stranger(ELSEWHERE + stage.rng.random_range(0..1_000_000), ports);
        until("the stranger answers", secs(30), async || {
            web::get(stranger.ports.http, "/health/live", &[]).await.map(drop)
        })
        .await;
        self.0 = Some((dead, stranger));
        stage.cluster.kill(restarted);
        stage.cluster.restart(restarted);
        Ok(Effect::restart(vec![dead, restarted]))
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        let Some((_, stranger)) = &self.0 else {
            return Confirmed::Skipped("there is no stranger".to_owned());
        };
        // The members look for the one that died every few seconds.
        let begun = Instant::now();
        while begun.elapsed() < secs(15) {
            let seen =
                |i| stage.cluster.node(i).log().contains("a node of another cluster listens");
            if stage.cluster.running().any(seen) {
                return Confirmed::Installed;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Confirmed::Indeterminate(format!("no member met the stranger at {}", stranger.ports.peer))
    }

    async fn heal(&mut self, stage: &mut Stage) {
        if let Some((dead, stranger)) = self.0.take() {
            drop(stranger);
            stage.restart(dead);
        }
    }
}

struct Malformed {
    victim: Option<usize>,
    refused: bool,
}

/// What no dialler takes.
const ADDRESSES: &[&str] = &["a b:7091", "http://a:7091", "a", "a:0", "[::1:7091", ""];

#[async_trait(?Send)]
impl Fault for Malformed {
    fn hold(&self) -> Duration {
        secs(3)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let asked = stage.cluster.running().choose(&mut stage.rng).ok_or("no node runs")?;
        let server = format!("http://{}", stage.cluster.node(asked).ports.peer);
        let client = MembershipClient::connect(server).await;
        let mut client = client.map_err(|why| format!("it cannot be asked: {why}"))?;
        self.refused = true;
        for address in ADDRESSES {
            let request = joining(stage.rng.random(), address);
            // One that was accepted by mistake is seen by its name.
            let answer = client.join(request).await.map_err(|why| why.to_string())?.into_inner();
            self.refused &= answer.refusal.is_some();
        }
        let victim = stage.cluster.running().choose(&mut stage.rng).ok_or("no node runs")?;
        stage.cluster.kill(victim);
        let peers = stage.cluster.node(victim).data().join("peers");
        std::fs::write(peers, ADDRESSES.join("\n")).map_err(|why| why.to_string())?;
        self.victim = Some(victim);
        Ok(Effect::restart(vec![victim]))
    }

    async fn confirm(&mut self, _: &mut Stage) -> Confirmed {
        match self.refused {
            true => Confirmed::Installed,
            false => Confirmed::Indeterminate("one of them was accepted".to_owned()),
        }
    }

    async fn heal(&mut self, stage: &mut Stage) {
        if let Some(victim) = self.victim.take() {
            stage.restart(victim);
        }
    }
}

fn joining(incarnation: u128, address: &str) -> pb::JoinRequest {
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
