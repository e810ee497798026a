//! Decides what happens to a packet on a link; the switch carries it out.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::packet::Ipv4Packet;

/// The rules of one direction between two hosts. The default delivers every packet at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkRules {
    /// The packets that are blocked.
    pub cut: LinkCut,
    /// The share of lost packets, 0 to 1.
    pub loss: f64,
    /// The delay of a packet.
    pub delay: Duration,
    /// The maximum additional delay. Packets with different delays overtake each other.
    pub jitter: Duration,
    /// The share of packets without the delay, which overtake delayed ones; 0 to 1.
    pub reorder: f64,
    /// The share of duplicated packets, 0 to 1.
    pub duplicate: f64,
    /// The rate in bytes per second; a packet that would wait longer than [`QUEUE_DELAY_MAX`] is lost.
    pub rate: Option<u32>,
}

/// The packets that a direction blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LinkCut {
    /// No packet is blocked.
    #[default]
    Nothing,
    /// Every packet is blocked.
    All,
    /// TCP and UDP packets from or to one of these ports are blocked.
    Ports(Vec<u16>),
}

/// The maximum time that a packet waits for a rate-limited link: like a switch with a small buffer, it drops
/// excess packets instead of delivering them late.
pub const QUEUE_DELAY_MAX: Duration = Duration::from_millis(500);

/// One direction of a link with its random numbers.
pub(super) struct DirectedLink {
    pub(super) link: LinkRules,
    rng: StdRng,
    /// The time at which all earlier packets have left, if the rate is limited.
    free_at: Option<Instant>,
}

impl LinkRules {
    /// Rules that block every packet.
    pub fn cut() -> LinkRules {
        LinkRules { cut: LinkCut::All, ..LinkRules::default() }
    }
}

impl LinkCut {
    fn blocks(&self, packet: &Ipv4Packet) -> bool {
        match self {
            LinkCut::Nothing => false,
            LinkCut::All => true,
            LinkCut::Ports(ports) => packet.ports.iter().flatten().any(|port| ports.contains(port)),
        }
    }
}

impl DirectedLink {
    /// A direction that delivers every packet. Two with the same seed treat the same packets alike.
    pub(super) fn new(seed: u64) -> DirectedLink {
        DirectedLink { link: LinkRules::default(), rng: StdRng::seed_from_u64(seed), free_at: None }
    }

    /// The arrival times of a packet: none, one or two.
    pub(super) fn arrival_times(&mut self, packet: &Ipv4Packet, now: Instant) -> Vec<Instant> {
        // All random numbers are drawn for each packet, so that one rule does not change the outcome of
        // another.
        let [lost, is_reordered, twice, late] = [(); 4].map(|()| self.rng.random::<f64>());
        if self.link.cut.blocks(packet) || lost < self.link.loss {
            return Vec::new();
        }
        let Some(departure) = self.departure_time(packet.length, now) else { return Vec::new() };
        let delay = match is_reordered < self.link.reorder {
            true => Duration::ZERO,
            false => self.link.delay + self.link.jitter.mul_f64(late),
        };
        let copies = if twice < self.link.duplicate { 2 } else { 1 };
        vec![departure + delay; copies]
    }

    fn departure_time(&mut self, bytes: usize, now: Instant) -> Option<Instant> {
        let Some(rate) = self.link.rate else { return Some(now) };
        let starts_at = self.free_at.map_or(now, |free| free.max(now));
        let leaves_at = starts_at + Duration::from_secs_f64(bytes as f64 / f64::from(rate.max(1)));
        if leaves_at > now + QUEUE_DELAY_MAX {
            return None;
        }
        self.free_at = Some(leaves_at);
        Some(leaves_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: Ipv4Packet =
        Ipv4Packet { from: 1, to: 2, ports: Some([40_000, 7091]), length: 1000 };

    fn directed_link(link: LinkRules) -> DirectedLink {
        DirectedLink { link, ..DirectedLink::new(7) }
    }

    /// The delays of the copies of a thousand packets, one list per packet.
    fn arrivals_of_1000_packets(link: LinkRules) -> Vec<Vec<Duration>> {
        let (mut directed_link, now) = (directed_link(link), Instant::now());
        (0..1000)
            .map(|_| {
                directed_link
                    .arrival_times(&PACKET, now)
                    .iter()
                    .map(|&arrival| arrival - now)
                    .collect()
            })
            .collect()
    }

    fn share_with_copies(packets: &[Vec<Duration>], count: usize) -> f64 {
        packets.iter().filter(|copies| copies.len() == count).count() as f64 / packets.len() as f64
    }

    const DELAY: Duration = Duration::from_millis(40);

    #[test]
    fn packets_arrive_at_once_without_rules() {
        assert_eq!(
            arrivals_of_1000_packets(LinkRules::default()),
            vec![vec![Duration::ZERO]; 1000]
        );
    }

    #[test]
    fn port_cut_blocks_both_directions_of_a_connection_and_nothing_else() {
        let mut directed_link =
            directed_link(LinkRules { cut: LinkCut::Ports(vec![7091]), ..LinkRules::default() });
        let mut arrives = |ports| {
            !directed_link.arrival_times(&Ipv4Packet { ports, ..PACKET }, Instant::now()).is_empty()
        };
        assert!(!arrives(Some([40_000, 7091])));
        assert!(!arrives(Some([7091, 40_000])));
        assert!(arrives(Some([40_000, 7090])));
        assert!(arrives(None));
    }

    #[test]
    fn loss_and_duplication_match_their_rates() {
        let packets = arrivals_of_1000_packets(LinkRules {
            loss: 0.1,
            duplicate: 0.5,
            ..LinkRules::default()
        });
        assert!(
            (0.07..0.13).contains(&share_with_copies(&packets, 0)),
            "{}",
            share_with_copies(&packets, 0)
        );
        assert!(
            (0.40..0.50).contains(&share_with_copies(&packets, 2)),
            "{}",
            share_with_copies(&packets, 2)
        );
    }

    #[test]
    fn reordered_packets_skip_the_delay_and_others_stay_within_the_jitter() {
        let link = LinkRules { delay: DELAY, jitter: DELAY, reorder: 0.2, ..LinkRules::default() };
        let delays: Vec<_> = arrivals_of_1000_packets(link).into_iter().flatten().collect();
        let reordered = delays.iter().filter(|takes| takes.is_zero()).count();
        assert!((150..250).contains(&reordered), "{reordered}");
        assert!(delays.iter().all(|t| t.is_zero() || (DELAY..=DELAY * 2).contains(t)));
    }

    #[test]
    fn rate_limit_spaces_packets_and_drops_those_queued_too_long() {
        let packets =
            arrivals_of_1000_packets(LinkRules { rate: Some(100_000), ..LinkRules::default() });
        let arrived: Vec<_> = packets.into_iter().flatten().collect();
        assert_eq!(arrived.len(), 50);
        assert!(arrived.windows(2).all(|two| two[1] - two[0] >= DELAY / 5));
    }

    #[test]
    fn same_seed_loses_the_same_packets_under_other_rules() {
        let lossy = LinkRules { loss: 0.3, ..LinkRules::default() };
        let both = LinkRules { delay: DELAY, jitter: DELAY, ..lossy.clone() };
        let lost = |link| arrivals_of_1000_packets(link).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lost(lossy), lost(both));
    }
}
