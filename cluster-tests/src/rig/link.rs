//! What happens to a packet on its way: decided here, done by the switch.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::packet::Packet;

/// What one direction between two hosts does to packets. The default carries all of them at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Link {
    /// What does not get through at all.
    pub cut: Cut,
    /// The share that is lost, 0 to 1.
    pub loss: f64,
    /// How long a packet takes.
    pub delay: Duration,
    /// By how much more it may take. Packets that differ by it overtake each other.
    pub jitter: Duration,
    /// The share that does not take the delay, and so overtakes what is on its way; 0 to 1.
    pub reorder: f64,
    /// The share that comes twice, 0 to 1.
    pub duplicate: f64,
    /// Bytes in a second; what would wait for more than [`QUEUE`] is lost.
    pub rate: Option<u32>,
}

/// What a direction does not let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cut {
    /// Everything gets through.
    #[default]
    Nothing,
    /// Nothing does.
    All,
    /// TCP and UDP from or to one of these ports do not.
    Ports(Vec<u16>),
}

/// How long a packet waits at most for a link that is limited in its rate: a switch with a small
/// buffer, so that a flood is lost and does not grow old.
pub const QUEUE: Duration = Duration::from_millis(500);

/// One direction, with its dice.
pub(super) struct Way {
    pub(super) link: Link,
    dice: StdRng,
    /// When all that is before has left, if the rate is limited.
    free: Option<Instant>,
}

impl Link {
    /// One on which nothing gets through.
    pub fn cut() -> Link {
        Link { cut: Cut::All, ..Link::default() }
    }
}

impl Cut {
    fn stops(&self, packet: &Packet) -> bool {
        match self {
            Cut::Nothing => false,
            Cut::All => true,
            Cut::Ports(ports) => packet.ports.iter().flatten().any(|port| ports.contains(port)),
        }
    }
}

impl Way {
    /// A direction that carries everything. Two with the same seed treat the same packets alike.
    pub(super) fn new(seed: u64) -> Way {
        Way { link: Link::default(), dice: StdRng::seed_from_u64(seed), free: None }
    }

    /// When the packet arrives: never, once or twice.
    pub(super) fn carry(&mut self, packet: &Packet, now: Instant) -> Vec<Instant> {
        // All dice are thrown for each packet: what one rule does must not change the luck of another.
        let [lost, early, twice, late] = [(); 4].map(|()| self.dice.random::<f64>());
        if self.link.cut.stops(packet) || lost < self.link.loss {
            return Vec::new();
        }
        let Some(leaves) = self.leaves(packet.length, now) else { return Vec::new() };
        let takes = match early < self.link.reorder {
            true => Duration::ZERO,
            false => self.link.delay + self.link.jitter.mul_f64(late),
        };
        let copies = if twice < self.link.duplicate { 2 } else { 1 };
        vec![leaves + takes; copies]
    }

    fn leaves(&mut self, bytes: usize, now: Instant) -> Option<Instant> {
        let Some(rate) = self.link.rate else { return Some(now) };
        let from = self.free.map_or(now, |free| free.max(now));
        let until = from + Duration::from_secs_f64(bytes as f64 / f64::from(rate.max(1)));
        if until > now + QUEUE {
            return None;
        }
        self.free = Some(until);
        Some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: Packet = Packet { from: 1, to: 2, ports: Some([40_000, 7091]), length: 1000 };

    fn way(link: Link) -> Way {
        Way { link, ..Way::new(7) }
    }

    /// Delays of the copies of a thousand packets, a list each.
    fn thousand(link: Link) -> Vec<Vec<Duration>> {
        let (mut way, now) = (way(link), Instant::now());
        (0..1000).map(|_| way.carry(&PACKET, now).iter().map(|&at| at - now).collect()).collect()
    }

    fn share(fates: &[Vec<Duration>], count: usize) -> f64 {
        fates.iter().filter(|fate| fate.len() == count).count() as f64 / fates.len() as f64
    }

    const DELAY: Duration = Duration::from_millis(40);

    #[test]
    fn without_rules_all_arrives_at_once() {
        assert_eq!(thousand(Link::default()), vec![vec![Duration::ZERO]; 1000]);
    }

    #[test]
    fn a_cut_by_port_stops_both_directions_of_a_connection_to_it_and_nothing_else() {
        let mut way = way(Link { cut: Cut::Ports(vec![7091]), ..Link::default() });
        let mut arrives =
            |ports| !way.carry(&Packet { ports, ..PACKET }, Instant::now()).is_empty();
        assert!(!arrives(Some([40_000, 7091])));
        assert!(!arrives(Some([7091, 40_000])));
        assert!(arrives(Some([40_000, 7090])));
        assert!(arrives(None));
    }

    #[test]
    fn loss_and_duplicates_have_their_share() {
        let fates = thousand(Link { loss: 0.1, duplicate: 0.5, ..Link::default() });
        assert!((0.07..0.13).contains(&share(&fates, 0)), "{}", share(&fates, 0));
        assert!((0.40..0.50).contains(&share(&fates, 2)), "{}", share(&fates, 2));
    }

    #[test]
    fn some_overtake_and_the_others_take_the_delay_and_no_more_than_the_jitter() {
        let link = Link { delay: DELAY, jitter: DELAY, reorder: 0.2, ..Link::default() };
        let takes: Vec<_> = thousand(link).into_iter().flatten().collect();
        let early = takes.iter().filter(|takes| takes.is_zero()).count();
        assert!((150..250).contains(&early), "{early}");
        assert!(takes.iter().all(|t| t.is_zero() || (DELAY..=DELAY * 2).contains(t)));
    }

    #[test]
    fn a_rate_spaces_packets_and_loses_what_would_wait_too_long() {
        let fates = thousand(Link { rate: Some(100_000), ..Link::default() });
        let arrived: Vec<_> = fates.into_iter().flatten().collect();
        assert_eq!(arrived.len(), 50);
        assert!(arrived.windows(2).all(|two| two[1] - two[0] >= DELAY / 5));
    }

    #[test]
    fn the_same_seed_has_the_same_luck_whatever_else_is_ruled() {
        let lossy = Link { loss: 0.3, ..Link::default() };
        let both = Link { delay: DELAY, jitter: DELAY, ..lossy.clone() };
        let lost = |link| thousand(link).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lost(lossy), lost(both));
    }
}
