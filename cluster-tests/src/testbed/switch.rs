//! The switch: one thread that owns the TUN interfaces of all hosts and forwards packets between them by
//! [`LinkRules`], one set per direction, which can be changed while it runs.
//!
//! The seed and the number of a packet in its direction determine whether it is lost, delayed or duplicated.

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

use super::link::{DirectedLink, LinkRules};
use super::packet::Ipv4Packet;

/// A running switch; it stops when it is dropped.
pub(super) struct NetworkSwitch {
    shared: Arc<SwitchShared>,
    thread: Option<JoinHandle<()>>,
}

/// The packet counts of a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketCounts {
    /// Packets that were sent.
    pub sent: u64,
    /// Packets that were delivered or scheduled for delivery; duplicates count once.
    pub carried: u64,
    /// Packets that were delayed.
    pub delayed: u64,
}

struct SwitchShared {
    network: [u8; 3],
    seed: u64,
    /// Wakes the thread, so that it reads `state` again.
    wake: OwnedFd,
    state: Mutex<SwitchState>,
}

#[derive(Default)]
struct SwitchState {
    is_stopped: bool,
    ports: Vec<SwitchPort>,
    links: HashMap<(u8, u8), (DirectedLink, PacketCounts)>,
}

/// A host that is attached to the switch.
#[derive(Clone)]
struct SwitchPort {
    host: u8,
    tun: Arc<File>,
}

/// A delayed packet, ordered by its arrival time.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct DelayedPacket {
    arrives_at: Instant,
    number: u64,
    to: u8,
    bytes: Vec<u8>,
}

/// The maximum number of delayed packets; more are lost. They take about 12 MB; with a delay of 40 ms, the
/// limit is 200,000 packets per second.
const DELAYED_PACKETS_MAX: usize = 8192;

/// The maximum number of packets read from one host before the others are served.
const PACKETS_PER_TURN: usize = 64;

impl NetworkSwitch {
    /// A switch for a /24 network without hosts.
    pub(super) fn new(network: [u8; 3], seed: u64) -> Result<NetworkSwitch, String> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(|error| format!("cannot create an eventfd: {error}"))?;
        let shared = Arc::new(SwitchShared { network, seed, wake, state: Mutex::default() });
        let body = {
            let shared = Arc::clone(&shared);
            move || run_switch(&shared)
        };
        let thread = std::thread::Builder::new().name("switch".to_owned()).spawn(body);
        let thread = thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(NetworkSwitch { shared, thread: Some(thread) })
    }

    /// Attaches the host whose address ends in `host`.
    pub(super) fn attach(&self, host: u8, tun: File) {
        fcntl_setfl(&tun, OFlags::NONBLOCK).expect("make the TUN non-blocking");
        self.shared.lock_state().ports.push(SwitchPort { host, tun: Arc::new(tun) });
        self.shared.wake();
    }

    /// Changes the rules for packets from one host to another. Packets that were already scheduled still
    /// arrive.
    pub(super) fn set_link(&self, from: u8, to: u8, link: LinkRules) {
        self.shared.lock_state().link_mut(self.shared.seed, from, to).0.link = link;
    }

    /// The packet counts of a direction.
    pub(super) fn packet_counts(&self, from: u8, to: u8) -> PacketCounts {
        self.shared.lock_state().link_mut(self.shared.seed, from, to).1
    }
}

impl Drop for NetworkSwitch {
    fn drop(&mut self) {
        self.shared.lock_state().is_stopped = true;
        self.shared.wake();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the switch panicked");
    }
}

impl SwitchShared {
    fn lock_state(&self) -> MutexGuard<'_, SwitchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers a packet. The port is looked up now: a host that was attached before the packet was sent is
    /// still attached.
    fn deliver(&self, to: u8, bytes: &[u8]) {
        let tun =
            self.lock_state().ports.iter().find(|plug| plug.host == to).map(|p| p.tun.clone());
        if let Some(tun) = tun {
            // A host whose queue is full loses the packet, as on any network.
            let _ = rustix::io::write(&*tun, bytes);
        }
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the thread wakes anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl SwitchState {
    fn link_mut(&mut self, seed: u64, from: u8, to: u8) -> &mut (DirectedLink, PacketCounts) {
        let seed = seed ^ (u64::from(from) << 8 | u64::from(to));
        self.links
            .entry((from, to))
            .or_insert_with(|| (DirectedLink::new(seed), PacketCounts::default()))
    }

    fn schedule(&mut self, seed: u64, packet: &Ipv4Packet, now: Instant) -> Vec<Instant> {
        let (link, count) = self.link_mut(seed, packet.from, packet.to);
        let arrivals = link.arrival_times(packet, now);
        count.sent += 1;
        count.carried += u64::from(!arrivals.is_empty());
        count.delayed += u64::from(arrivals.iter().any(|&at| at > now));
        arrivals
    }
}

/// The state of the switch thread.
struct SwitchLoop<'a> {
    shared: &'a SwitchShared,
    ports: Vec<SwitchPort>,
    delayed: BinaryHeap<Reverse<DelayedPacket>>,
    /// The number of packets delayed since the start.
    delayed_total: u64,
    buffer: Vec<u8>,
}

/// The maximum length of an IPv4 packet.
const PACKET_BYTES_MAX: usize = 65_535;

/// Forwards packets until the switch is dropped.
fn run_switch(shared: &SwitchShared) {
    // The network must not slow down because its hosts are busy. The priority applies to this thread only.
    let _ = setpriority_process(None, -10);
    let (ports, delayed, buffer) = (Vec::new(), BinaryHeap::new(), vec![0; PACKET_BYTES_MAX]);
    let mut switch_loop = SwitchLoop { shared, ports, delayed, delayed_total: 0, buffer };
    loop {
        {
            let state = shared.lock_state();
            if state.is_stopped {
                return;
            }
            switch_loop.ports.clone_from(&state.ports);
        }
        for (port, is_readable) in switch_loop.wait_readable().into_iter().enumerate() {
            if is_readable {
                switch_loop.read_packets(port);
            }
        }
        switch_loop.deliver_due();
    }
}

impl SwitchLoop<'_> {
    /// Waits for a packet, for the next due packet, or for a wake-up; returns which ports are readable.
    fn wait_readable(&self) -> Vec<bool> {
        let tuns = self.ports.iter().map(|plug| &*plug.tun);
        let mut polls: Vec<_> = tuns.map(|tun| PollFd::new(tun, PollFlags::IN)).collect();
        polls.push(PollFd::new(&self.shared.wake, PollFlags::IN));
        let next = self.delayed.peek().map(|Reverse(held)| held.arrives_at);
        let timeout = next.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut polls, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("the switch cannot wait: {error}"),
        }
        if polls.last().is_some_and(|wake| !wake.revents().is_empty()) {
            let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        }
        polls.iter().take(self.ports.len()).map(|p| p.revents().contains(PollFlags::IN)).collect()
    }

    /// Reads the packets that a host has sent, and forwards them.
    fn read_packets(&mut self, port: usize) {
        for _ in 0..PACKETS_PER_TURN {
            let read = rustix::io::read(&*self.ports[port].tun, &mut self.buffer);
            let Ok(length) = read else { return };
            // A packet with another host's source address belongs to no link.
            let packet = Ipv4Packet::parse(&self.buffer[..length], self.shared.network);
            let packet = packet.filter(|packet| packet.from == self.ports[port].host);
            if let Some(packet) = packet {
                self.forward(&packet);
            }
        }
    }

    /// Applies the rules of its link to the packet in the buffer.
    fn forward(&mut self, packet: &Ipv4Packet) {
        let now = Instant::now();
        let arrivals = self.shared.lock_state().schedule(self.shared.seed, packet, now);
        let bytes = &self.buffer[..packet.length];
        for arrival in arrivals {
            if arrival <= now {
                self.shared.deliver(packet.to, bytes);
            } else if self.delayed.len() < DELAYED_PACKETS_MAX {
                self.delayed_total += 1;
                let (number, to, bytes) = (self.delayed_total, packet.to, bytes.to_vec());
                self.delayed.push(Reverse(DelayedPacket {
                    arrives_at: arrival,
                    number,
                    to,
                    bytes,
                }));
            }
        }
    }

    /// Delivers the delayed packets that are due.
    fn deliver_due(&mut self) {
        let now = Instant::now();
        while self.delayed.peek().is_some_and(|Reverse(held)| held.arrives_at <= now) {
            if let Some(Reverse(held)) = self.delayed.pop() {
                self.shared.deliver(held.to, &held.bytes);
            }
        }
    }
}
