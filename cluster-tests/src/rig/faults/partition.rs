//! Some do not reach some others: by pair, by direction, by port.

use std::sync::Arc;
use std::time::Duration;

use tonic::async_trait;

use super::super::{Cut, Link, Rig, Spot};
use super::{another, others, watch};
use crate::faults::{Confirmed, Effect, Fault, Stage};
use crate::wait::secs;

/// A partition.
pub(super) struct Cuts {
    rig: Arc<Rig>,
    shape: Shape,
    /// The directions that are cut, with what was lost in each before.
    cut: Vec<(Way, u64)>,
}

/// Who does not reach whom.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// The owner is in the minority.
    OwnerAlone,
    /// The owner is in the majority.
    OtherAlone,
    /// The owner hears no node.
    OwnerDeaf,
    /// No node hears the owner.
    OwnerMute,
    /// The port between nodes is cut at the owner, and no other.
    PeerPort,
    /// The ports for clients are cut at the owner, and not the one between nodes.
    ClientPorts,
    /// The owner and another one, while all others reach both.
    Partial,
}

type Way = (Spot, Spot);

const PEER: u16 = 7091;

/// HTTP, QUIC and gRPC.
const DOORS: [u16; 3] = [7080, 7443, 7090];

impl Cuts {
    pub(super) fn new(rig: Arc<Rig>, shape: Shape) -> Cuts {
        Cuts { rig, shape, cut: Vec::new() }
    }

    fn lost(&self, way: Way) -> u64 {
        let count = self.rig.count(way.0, way.1);
        count.sent - count.carried
    }
}

/// The directions from one to several.
pub(super) fn from(one: Spot, several: &[Spot]) -> impl Iterator<Item = Way> {
    several.iter().map(move |&other| (one, other))
}

/// The directions from several to one.
pub(super) fn to(one: Spot, several: &[Spot]) -> impl Iterator<Item = Way> {
    several.iter().map(move |&other| (other, one))
}

/// The directions between one and several.
pub(super) fn between(one: Spot, several: &[Spot]) -> Vec<Way> {
    from(one, several).chain(to(one, several)).collect()
}

impl Shape {
    /// Which directions are cut, and for what, if `owner` is the owner and `other` another node.
    fn ways(self, owner: usize, other: usize, all: &[usize]) -> (Vec<Way>, Cut) {
        let one = Spot::Node(if self == Shape::OtherAlone { other } else { owner });
        let rest: Vec<_> = all.iter().map(|&i| Spot::Node(i)).filter(|&spot| spot != one).collect();
        let everybody: Vec<_> = rest.iter().copied().chain([Spot::Clients]).collect();
        match self {
            Shape::OwnerAlone | Shape::OtherAlone => (between(one, &rest), Cut::All),
            Shape::OwnerDeaf => (to(one, &rest).collect(), Cut::All),
            Shape::OwnerMute => (from(one, &rest).collect(), Cut::All),
            Shape::PeerPort => (between(one, &everybody), Cut::Ports(vec![PEER])),
            Shape::ClientPorts => (between(one, &everybody), Cut::Ports(DOORS.to_vec())),
            Shape::Partial => (between(one, &[Spot::Node(other)]), Cut::All),
        }
    }

    /// What that does to the cluster. With three nodes or more the others are a majority.
    fn effect(self, owner: usize, other: usize) -> Effect {
        let cut_off = |node| {
            let nodes = vec![node];
            Effect { unready: nodes.clone(), deposed: nodes.clone(), ..Effect::on(nodes) }
        };
        match self {
            Shape::OtherAlone => cut_off(other),
            Shape::OwnerAlone | Shape::OwnerDeaf | Shape::OwnerMute | Shape::PeerPort => {
                cut_off(owner)
            }
            // It is as good a node as any; it just has no callers.
            Shape::ClientPorts => Effect::on(vec![owner]),
            // Each of them has a majority with the third; whether one of them still owns is open.
            Shape::Partial => {
                let deposed = vec![owner, other];
                Effect { deposed: deposed.clone(), ..Effect::on(deposed) }
            }
        }
    }
}

#[async_trait(?Send)]
impl Fault for Cuts {
    fn hold(&self) -> Duration {
        secs(8)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let owner = stage.owner().await;
        let other = another(stage, owner)?;
        let all: Vec<_> = others(stage, owner).into_iter().chain([owner]).collect();
        let (ways, cut) = self.shape.ways(owner, other, &all);
        for (from, to) in ways {
            self.cut.push(((from, to), self.lost((from, to))));
            self.rig.set(from, to, Link { cut: cut.clone(), ..Link::default() });
        }
        Ok(self.shape.effect(owner, other))
    }

    async fn confirm(&mut self, _: &mut Stage) -> Confirmed {
        let before = self.cut.iter().map(|&(_, lost)| lost).sum();
        let lost = || self.cut.iter().map(|&(way, _)| self.lost(way)).sum();
        watch::grows("packet lost at a cut", before, lost).await
    }

    async fn heal(&mut self, _: &mut Stage) {
        for ((from, to), _) in self.cut.drain(..) {
            self.rig.set(from, to, Link::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The directions that a shape cuts between nodes, as text, when 0 owns and 1 is the other.
    fn ways(shape: Shape) -> String {
        let name = |spot| match spot {
            Spot::Node(i) => i.to_string(),
            Spot::Clients => "c".to_owned(),
        };
        let (mut ways, _) = shape.ways(0, 1, &[0, 1, 2]);
        ways.sort();
        let ways = ways.into_iter().map(|(from, to)| format!("{}>{}", name(from), name(to)));
        ways.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_shape_cuts_what_it_says() {
        assert_eq!(ways(Shape::OwnerAlone), "0>1 0>2 1>0 2>0");
        assert_eq!(ways(Shape::OtherAlone), "0>1 1>0 1>2 2>1");
        assert_eq!(ways(Shape::OwnerDeaf), "1>0 2>0");
        assert_eq!(ways(Shape::OwnerMute), "0>1 0>2");
        assert_eq!(ways(Shape::Partial), "0>1 1>0");
        assert_eq!(ways(Shape::PeerPort), "0>1 0>2 0>c 1>0 2>0 c>0");
        assert_eq!(Shape::PeerPort.ways(0, 1, &[0, 1, 2]).1, Cut::Ports(vec![7091]));
        assert_eq!(Shape::ClientPorts.ways(0, 1, &[0, 1, 2]).1, Cut::Ports(vec![7080, 7443, 7090]));
    }
}
