//! The switch: one thread that owns the TUN interfaces of all hosts and carries packets between them
//! by [`Link`]s, a direction each, which can be changed while it runs.
//!
//! Which packet of a direction is lost, late or doubled is told by the seed and its number in that
//! direction alone.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::setpriority_process;

use super::link::{Link, Way};
use super::packet::Packet;

/// A running switch; it ends when it is dropped.
pub(super) struct Switch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What a direction has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets that went in.
    pub sent: u64,
    /// Those of them that came out: later ones too, and doubled ones once.
    pub carried: u64,
    /// Those of them that took their time.
    pub late: u64,
}

struct Shared {
    network: [u8; 3],
    seed: u64,
    /// Makes the thread look at `state` again.
    wake: OwnedFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ended: bool,
    plugs: Vec<Plug>,
    ways: HashMap<(u8, u8), (Way, Count)>,
}

/// A host that is plugged in.
#[derive(Clone)]
struct Plug {
    host: u8,
    tun: Arc<File>,
}

/// A packet on its way, ordered by when it arrives.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    at: Instant,
    number: u64,
    to: u8,
    bytes: Vec<u8>,
}

/// Packets on their way at most; more are lost. Some 12 MB: at 40 ms of delay that is 200,000 packets
/// a second.
const HELD: usize = 8192;

/// Packets taken from one host before the others have their turn.
const TURN: usize = 64;

impl Switch {
    /// A switch for a network of 256 with nobody on it.
    pub(super) fn new(network: [u8; 3], seed: u64) -> Result<Switch, String> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(|why| format!("no eventfd: {why}"))?;
        let shared = Arc::new(Shared { network, seed, wake, state: Mutex::default() });
        let body = {
            let shared = Arc::clone(&shared);
            move || run(&shared)
        };
        let thread = std::thread::Builder::new().name("switch".to_owned()).spawn(body);
        let thread = thread.map_err(|why| format!("no thread: {why}"))?;
        Ok(Switch { shared, thread: Some(thread) })
    }

    /// Plugs in the host whose address ends in `host`.
    pub(super) fn plug(&self, host: u8, tun: File) {
        fcntl_setfl(&tun, OFlags::NONBLOCK).expect("a TUN need not block");
        self.shared.state().plugs.push(Plug { host, tun: Arc::new(tun) });
        self.shared.wake();
    }

    /// Changes what becomes of packets from one host to another. Those on their way arrive.
    pub(super) fn set(&self, from: u8, to: u8, link: Link) {
        self.shared.state().way(self.shared.seed, from, to).0.link = link;
    }

    /// What a direction has done.
    pub(super) fn count(&self, from: u8, to: u8) -> Count {
        self.shared.state().way(self.shared.seed, from, to).1
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.wake();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the switch panicked");
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a packet arrive. Who was plugged in before it was sent gets it, so nothing is kept here of
    /// who that is.
    fn give(&self, to: u8, bytes: &[u8]) {
        let tun = self.state().plugs.iter().find(|plug| plug.host == to).map(|p| p.tun.clone());
        if let Some(tun) = tun {
            // A host that takes nothing now loses it, as on any network.
            let _ = rustix::io::write(&*tun, bytes);
        }
    }

    fn wake(&self) {
        // It fails only when it is full of wakes, and one is enough.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl State {
    fn way(&mut self, seed: u64, from: u8, to: u8) -> &mut (Way, Count) {
        let seed = seed ^ (u64::from(from) << 8 | u64::from(to));
        self.ways.entry((from, to)).or_insert_with(|| (Way::new(seed), Count::default()))
    }

    fn carry(&mut self, seed: u64, packet: &Packet, now: Instant) -> Vec<Instant> {
        let (way, count) = self.way(seed, packet.from, packet.to);
        let arrivals = way.carry(packet, now);
        count.sent += 1;
        count.carried += u64::from(!arrivals.is_empty());
        count.late += u64::from(arrivals.iter().any(|&at| at > now));
        arrivals
    }
}

/// What the thread has in its hands.
struct Carrier<'a> {
    shared: &'a Shared,
    plugs: Vec<Plug>,
    held: BinaryHeap<Reverse<Held>>,
    /// Packets held since the start.
    number: u64,
    buffer: Vec<u8>,
}

/// The longest IPv4 packet there is.
const LONGEST: usize = 65_535;

/// Carries packets until the switch is dropped.
fn run(shared: &Shared) {
    // A network is not slow because the machines on it are busy. Of this thread alone.
    let _ = setpriority_process(None, -10);
    let (plugs, held, buffer) = (Vec::new(), BinaryHeap::new(), vec![0; LONGEST]);
    let mut carrier = Carrier { shared, plugs, held, number: 0, buffer };
    loop {
        {
            let state = shared.state();
            if state.ended {
                return;
            }
            carrier.plugs.clone_from(&state.plugs);
        }
        for (plug, ready) in carrier.wait().into_iter().enumerate() {
            if ready {
                carrier.take(plug);
            }
        }
        carrier.give_due();
    }
}

impl Carrier<'_> {
    /// Waits until a packet comes, the next one is due, or it is woken; says who has sent something.
    fn wait(&self) -> Vec<bool> {
        let tuns = self.plugs.iter().map(|plug| &*plug.tun);
        let mut polls: Vec<_> = tuns.map(|tun| PollFd::new(tun, PollFlags::IN)).collect();
        polls.push(PollFd::new(&self.shared.wake, PollFlags::IN));
        let next = self.held.peek().map(|Reverse(held)| held.at);
        let left = next.map(|at| at.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut polls, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(why) => panic!("the switch cannot wait: {why}"),
        }
        if polls.last().is_some_and(|wake| !wake.revents().is_empty()) {
            let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        }
        polls.iter().take(self.plugs.len()).map(|p| p.revents().contains(PollFlags::IN)).collect()
    }

    /// Takes what a host has sent, and lets go of it at once or holds it.
    fn take(&mut self, plug: usize) {
        for _ in 0..TURN {
            let read = rustix::io::read(&*self.plugs[plug].tun, &mut self.buffer);
            let Ok(length) = read else { return };
            // What does not say where it really comes from is of no link.
            let packet = Packet::read(&self.buffer[..length], self.shared.network);
            let packet = packet.filter(|packet| packet.from == self.plugs[plug].host);
            if let Some(packet) = packet {
                self.carry(&packet);
            }
        }
    }

    /// Does with the packet that is in the buffer what its link says.
    fn carry(&mut self, packet: &Packet) {
        let now = Instant::now();
        let arrivals = self.shared.state().carry(self.shared.seed, packet, now);
        let bytes = &self.buffer[..packet.length];
        for at in arrivals {
            if at <= now {
                self.shared.give(packet.to, bytes);
            } else if self.held.len() < HELD {
                self.number += 1;
                let (number, to, bytes) = (self.number, packet.to, bytes.to_vec());
                self.held.push(Reverse(Held { at, number, to, bytes }));
            }
        }
    }

    /// Lets go of what has been on its way for long enough.
    fn give_due(&mut self) {
        let now = Instant::now();
        while self.held.peek().is_some_and(|Reverse(held)| held.at <= now) {
            if let Some(Reverse(held)) = self.held.pop() {
                self.shared.give(held.to, &held.bytes);
            }
        }
    }
}
