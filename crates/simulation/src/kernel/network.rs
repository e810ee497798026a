//! The network between the hosts.

use super::{HostId, HostState, Kernel, WorldTime};

/// How packets travel from one host to another. The way back has a state of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Packets do not arrive.
    pub is_cut: bool,
    /// The shortest time of a packet.
    pub latency_us: u64,
    /// What may be added to it.
    pub jitter_us: u64,
    /// Packets that are lost, of 1,000.
    pub loss_per_mille: u32,
    /// Capacity; 0 is unlimited.
    pub bytes_per_ms: u64,
}

/// Hosts in one room.
impl Default for LinkState {
    fn default() -> LinkState {
        LinkState {
            is_cut: false,
            latency_us: 100,
            jitter_us: 100,
            loss_per_mille: 0,
            bytes_per_ms: 0,
        }
    }
}

/// The links between all hosts, by the number of the sender, then of the receiver.
#[derive(Default)]
pub(super) struct Network {
    links: Vec<Vec<LinkState>>,
}

impl Network {
    pub(super) fn add_host(&mut self) {
        for row in &mut self.links {
            row.push(LinkState::default());
        }
        self.links.push(vec![LinkState::default(); self.links.len() + 1]);
    }
}

impl Kernel {
    /// The link from one host to another.
    pub fn link(&self, from: HostId, to: HostId) -> LinkState {
        self.network.links[from.0][to.0]
    }

    /// Changes the link from one host to another.
    pub fn set_link(&mut self, from: HostId, to: HostId, state: LinkState) {
        self.network.links[from.0][to.0] = state;
    }

    /// The time at which a packet arrives that is sent now.
    pub(super) fn arrival(&mut self, from: HostId, to: HostId, bytes: usize) -> WorldTime {
        let link = self.link(from, to);
        let jitter = self.random.below(link.jitter_us * 1_000);
        let transfer = match link.bytes_per_ms {
            0 => 0,
            rate => bytes as u64 * 1_000_000 / rate,
        };
        self.now + link.latency_us * 1_000 + jitter + transfer
    }

    /// Whether a packet gets from one host to the other now.
    pub(super) fn delivers(&mut self, from: HostId, to: HostId) -> bool {
        let link = self.link(from, to);
        let is_up =
            |host: HostId| matches!(self.host(host).state, HostState::Running | HostState::Paused);
        !link.is_cut && is_up(from) && is_up(to) && !self.random.chance(link.loss_per_mille)
    }
}
