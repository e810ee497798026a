//! The rig: a machine of its own for each node, as far as a node can tell, all on this one.
//!
//! *What is it?* [`Rig`] gives each node a host with a network of its own, a switch between the hosts
//! whose [`Link`]s can be cut, slow or lossy, a volume that can lose its power or be full, and a
//! [`Shim`] that moves its clock and breaks its fsyncs. The test stays where it is and reaches the
//! hosts by an address on the same switch.
//!
//! *What does it promise?* Nothing outlives the process of the test, also when that is killed: nodes
//! die with it, and with them their namespaces, interfaces, mounts and loop devices, none of which has
//! a name on the machine. Files are left in one directory, and the next run removes it.
//!
//! *What does it refuse?* A machine without root, TUN or loop devices: [`Rig::new`] says what is
//! missing. IPv6.
//!
//! *What must a caller not do?* Keep files of a volume open over a power cut.

mod certificate;
pub mod faults;
mod home;
mod host;
mod kernel;
mod link;
mod packet;
mod shim;
mod switch;
#[cfg(test)]
mod tests;
mod volume;

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};

use crate::ground::Ground;

use pushonce_client::Trust;

use certificate::Certificate;
use home::Home;
use host::Host;
use switch::Switch;
use volume::Volume;

pub use link::{Cut, Link, QUEUE};
pub use shim::Shim;
pub use switch::Count;

/// Hosts for the nodes of one cluster, as many as are asked for.
pub struct Rig {
    berths: Mutex<Vec<Arc<Berth>>>,
    switch: Switch,
    network: [u8; 3],
    certificate: Certificate,
    home: Home,
}

/// Who is at an end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spot {
    /// The `i`th node.
    Node(usize),
    /// The test, with all its publishers and subscribers.
    Clients,
}

/// All that one node has of its own.
pub struct Berth {
    host: Host,
    volume: Volume,
    /// What the node believes of the clock and of its disk.
    pub shim: Shim,
}

/// The host that is the test.
const CLIENTS: u8 = 254;

impl Rig {
    /// A rig with nobody on it. The luck of packets is told by the seed. `Err` says what this machine
    /// does not give.
    pub fn new(seed: u64) -> Result<Rig, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("it needs root".to_owned());
        }
        let home = Home::new(&std::env::temp_dir())?;
        let certificate = Certificate::new(home.path())?;
        let (third, tun) = network()?;
        let network = [10, 77, third];
        let switch = Switch::new(network, seed)?;
        switch.plug(CLIENTS, tun);
        let rig = Rig { berths: Mutex::default(), switch, network, certificate, home };
        // What the machine lacks is told now, and not in the middle of a story.
        rig.try_berth(0)?;
        Ok(rig)
    }

    /// What the `i`th node has of its own.
    pub fn berth(&self, i: usize) -> Arc<Berth> {
        self.try_berth(i).expect("what one node has, another can have")
    }

    /// Changes what becomes of packets from one to another, from now on.
    pub fn set(&self, from: Spot, to: Spot, link: Link) {
        self.switch.set(from.host(), to.host(), link);
    }

    /// Lets everything through again, everywhere.
    pub fn mend(&self) {
        let nodes = (0..self.len()).map(Spot::Node);
        let spots: Vec<_> = nodes.chain([Spot::Clients]).collect();
        for &from in &spots {
            spots.iter().for_each(|&to| self.set(from, to, Link::default()));
        }
    }

    /// What has gone from one to another since the start.
    pub fn count(&self, from: Spot, to: Spot) -> Count {
        self.switch.count(from.host(), to.host())
    }

    fn len(&self) -> usize {
        self.berths.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn try_berth(&self, i: usize) -> Result<Arc<Berth>, String> {
        let mut berths = self.berths.lock().unwrap_or_else(PoisonError::into_inner);
        for n in berths.len()..=i {
            let (berth, tun) = Berth::new(self.home.path(), n, self.address(n))?;
            self.switch.plug(Spot::Node(n).host(), tun);
            berths.push(Arc::new(berth));
        }
        Ok(Arc::clone(&berths[i]))
    }
}

impl Ground for Rig {
    fn address(&self, i: usize) -> Ipv4Addr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, Spot::Node(i).host())
    }

    fn volume(&self, i: usize) -> Option<PathBuf> {
        Some(self.berth(i).path())
    }

    fn furnish(&self, _: usize, data: &Path) {
        self.certificate.put(data).expect("a volume has room for a certificate");
    }

    fn trust(&self) -> Trust {
        self.certificate.trust()
    }

    fn command(&self, i: usize, mut node: Command) -> Command {
        // It is no loopback address, and the switch keeps strangers out.
        node.arg("--insecure");
        self.berth(i).command(node)
    }

    fn start(&self, i: usize, node: Command) -> io::Result<Child> {
        self.berth(i).start(node)
    }
}

/// Says, past what catches the output of tests, that something could not be tried here.
pub fn left_out(what: &str, why: &str) {
    let _ = writeln!(io::stderr(), "LEFT OUT: {what}: {why}");
}

/// An interface of the machine, for a network of 256 that no other rig has now, and its number.
fn network() -> Result<(u8, std::fs::File), String> {
    let mut last = String::new();
    for n in 0..=255u8 {
        let third = (std::process::id() as u8).wrapping_add(n);
        // Only one can have an interface of this name: so the network is its own.
        match host::tun(&format!("rig{third}")) {
            Ok(tun) => {
                let address = format!("10.77.{third}.{CLIENTS}/24");
                host::command(&format!("ip address add {address} dev rig{third}"))?;
                host::command(&format!("ip link set rig{third} up"))?;
                return Ok((third, tun));
            }
            Err(why) => last = why,
        }
    }
    Err(last)
}

impl Spot {
    fn host(self) -> u8 {
        match self {
            Spot::Node(i) => u8::try_from(i + 1).ok().filter(|&h| h < CLIENTS).expect("few nodes"),
            Spot::Clients => CLIENTS,
        }
    }
}

impl Berth {
    fn new(home: &Path, i: usize, address: Ipv4Addr) -> Result<(Berth, std::fs::File), String> {
        let name = format!("volume-{i}");
        let host = Host::new()?;
        let tun = host.tun(&address.to_string())?;
        let volume = Volume::new(home, &name)?;
        volume.mount(&host)?;
        let shim = Shim::new(home, &name)?;
        Ok((Berth { host, volume, shim }, tun))
    }

    /// Where its volume is, for the node and for the test alike.
    pub fn path(&self) -> PathBuf {
        self.host.outside(self.volume.path())
    }

    /// A command as one that can be [started](Berth::start) here: it believes what the shim says, and
    /// ends with this berth.
    pub fn command(&self, mut inner: Command) -> Command {
        inner.envs(self.shim.environment());
        inner
    }

    /// Starts a command in this host's network and with its mounts.
    pub fn start(&self, mut command: Command) -> io::Result<Child> {
        self.host.run(move || command.spawn())
    }

    /// Cuts the power of its volume: what was not fsynced is lost, and all that is written fails. The
    /// node is to be killed after it, and then the [power is back](Berth::restore_power).
    pub fn cut_power(&self) -> Result<(), String> {
        self.volume.cut_power(&self.host)
    }

    /// The volume as it is after the power cut. The node must not run.
    pub fn restore_power(&self) -> Result<(), String> {
        self.volume.unmount(&self.host)?;
        self.volume.mount(&self.host)
    }

    /// Fills its volume to the last block; says how many bytes that took.
    pub fn fill(&self) -> Result<u64, String> {
        self.volume.fill(&self.host)
    }

    /// Gives the room back that [`Berth::fill`] took.
    pub fn free(&self) -> Result<(), String> {
        self.volume.free(&self.host)
    }
}
