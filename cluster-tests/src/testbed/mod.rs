//! The rig: a machine of its own for each node, as far as a node can tell, all on this one.
//!
//! *What is it?* [`Testbed`] gives each node a host with a network of its own, a switch between the hosts
//! whose [`LinkRules`]s can be cut, slow or lossy, a volume that can lose its power or be full, and a
//! [`Shim`] that moves its clock and breaks its fsyncs. The test stays where it is and reaches the
//! hosts by an address on the same switch.
//!
//! *What does it promise?* Nothing outlives the process of the test, also when that is killed: nodes
//! die with it, and with them their namespaces, interfaces, mounts and loop devices, none of which has
//! a name on the machine. Files are left in one directory, and the next run removes it.
//!
//! *What does it refuse?* A machine without root, TUN or loop devices: [`Testbed::new`] says what is
//! missing. IPv6.
//!
//! *What must a caller not do?* Keep files of a volume open over a power cut.

mod certificate;
pub mod faults;
mod host;
mod kernel;
mod link;
mod packet;
mod run_dir;
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

use crate::environment::NodeEnvironment;

use pushonce_client::CertificateTrust;

use certificate::TestCertificate;
use host::NamespaceHost;
use run_dir::RunDir;
use switch::NetworkSwitch;
use volume::Volume;

pub use link::{LinkCut, LinkRules, QUEUE_DELAY_MAX};
pub use shim::Shim;
pub use switch::PacketCounts;

/// Hosts for the nodes of one cluster, as many as are asked for.
pub struct Testbed {
    hosts: Mutex<Vec<Arc<TestHost>>>,
    switch: NetworkSwitch,
    network: [u8; 3],
    certificate: TestCertificate,
    run_dir: RunDir,
}

/// Who is at an end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkEnd {
    /// The `i`th node.
    Node(usize),
    /// The test, with all its publishers and subscribers.
    Clients,
}

/// All that one node has of its own.
pub struct TestHost {
    namespace: NamespaceHost,
    volume: Volume,
    /// What the node believes of the clock and of its disk.
    pub shim: Shim,
}

/// The host that is the test.
const CLIENTS_HOST: u8 = 254;

impl Testbed {
    /// A rig with nobody on it. The luck of packets is told by the seed. `Err` says what this machine
    /// does not give.
    pub fn new(seed: u64) -> Result<Testbed, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("it needs root".to_owned());
        }
        let run_dir = RunDir::new(&std::env::temp_dir())?;
        let certificate = TestCertificate::new(run_dir.path())?;
        let (third_octet, tun) = allocate_network()?;
        let network = [10, 77, third_octet];
        let switch = NetworkSwitch::new(network, seed)?;
        switch.attach(CLIENTS_HOST, tun);
        let testbed = Testbed { hosts: Mutex::default(), switch, network, certificate, run_dir };
        // What the machine lacks is told now, and not in the middle of a story.
        testbed.try_host(0)?;
        Ok(testbed)
    }

    /// What the `i`th node has of its own.
    pub fn host(&self, i: usize) -> Arc<TestHost> {
        self.try_host(i).expect("what one node has, another can have")
    }

    /// Changes what becomes of packets from one to another, from now on.
    pub fn set_link(&self, from: LinkEnd, to: LinkEnd, link: LinkRules) {
        self.switch.set_link(from.host_number(), to.host_number(), link);
    }

    /// Lets everything through again, everywhere.
    pub fn restore_links(&self) {
        let nodes = (0..self.len()).map(LinkEnd::Node);
        let ends: Vec<_> = nodes.chain([LinkEnd::Clients]).collect();
        for &from in &ends {
            ends.iter().for_each(|&to| self.set_link(from, to, LinkRules::default()));
        }
    }

    /// What has gone from one to another since the start.
    pub fn packet_counts(&self, from: LinkEnd, to: LinkEnd) -> PacketCounts {
        self.switch.packet_counts(from.host_number(), to.host_number())
    }

    fn len(&self) -> usize {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn try_host(&self, i: usize) -> Result<Arc<TestHost>, String> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        for n in hosts.len()..=i {
            let (host, tun) = TestHost::new(self.run_dir.path(), n, self.address(n))?;
            self.switch.attach(LinkEnd::Node(n).host_number(), tun);
            hosts.push(Arc::new(host));
        }
        Ok(Arc::clone(&hosts[i]))
    }
}

impl NodeEnvironment for Testbed {
    fn address(&self, i: usize) -> Ipv4Addr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, LinkEnd::Node(i).host_number())
    }

    fn volume(&self, i: usize) -> Option<PathBuf> {
        Some(self.host(i).volume_path())
    }

    fn prepare_data_dir(&self, _: usize, data: &Path) {
        self.certificate.install(data).expect("a volume has room for a certificate");
    }

    fn trust(&self) -> CertificateTrust {
        self.certificate.trust()
    }

    fn command(&self, i: usize, mut node: Command) -> Command {
        // It is no loopback address, and the switch keeps strangers out.
        node.arg("--insecure");
        self.host(i).command(node)
    }

    fn start(&self, i: usize, node: Command) -> io::Result<Child> {
        self.host(i).start(node)
    }
}

/// Says, past what catches the output of tests, that something could not be tried here.
pub fn report_skipped(test: &str, reason: &str) {
    let _ = writeln!(io::stderr(), "LEFT OUT: {test}: {reason}");
}

/// An interface of the machine, for a network of 256 that no other rig has now, and its number.
fn allocate_network() -> Result<(u8, std::fs::File), String> {
    let mut last = String::new();
    for n in 0..=255u8 {
        let third_octet = (std::process::id() as u8).wrapping_add(n);
        // Only one can have an interface of this name: so the network is its own.
        match host::attach_tun(&format!("rig{third_octet}")) {
            Ok(tun) => {
                let address = format!("10.77.{third_octet}.{CLIENTS_HOST}/24");
                host::run_command(&format!("ip address add {address} dev rig{third_octet}"))?;
                host::run_command(&format!("ip link set rig{third_octet} up"))?;
                return Ok((third_octet, tun));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl LinkEnd {
    fn host_number(self) -> u8 {
        match self {
            LinkEnd::Node(i) => {
                u8::try_from(i + 1).ok().filter(|&h| h < CLIENTS_HOST).expect("few nodes")
            }
            LinkEnd::Clients => CLIENTS_HOST,
        }
    }
}

impl TestHost {
    fn new(dir: &Path, i: usize, address: Ipv4Addr) -> Result<(TestHost, std::fs::File), String> {
        let name = format!("volume-{i}");
        let namespace = NamespaceHost::new()?;
        let tun = namespace.create_tun(&address.to_string())?;
        let volume = Volume::new(dir, &name)?;
        volume.mount(&namespace)?;
        let shim = Shim::new(dir, &name)?;
        Ok((TestHost { namespace, volume, shim }, tun))
    }

    /// Where its volume is, for the node and for the test alike.
    pub fn volume_path(&self) -> PathBuf {
        self.namespace.path_from_outside(self.volume.path())
    }

    /// A command as one that can be [started](TestHost::start) here: it believes what the shim says, and
    /// ends with this berth.
    pub fn command(&self, mut inner: Command) -> Command {
        inner.envs(self.shim.environment());
        inner
    }

    /// Starts a command in this host's network and with its mounts.
    pub fn start(&self, mut command: Command) -> io::Result<Child> {
        self.namespace.run(move || command.spawn())
    }

    /// Cuts the power of its volume: what was not fsynced is lost, and all that is written fails. The
    /// node is to be killed after it, and then the [power is back](TestHost::restore_power).
    pub fn cut_power(&self) -> Result<(), String> {
        self.volume.cut_power(&self.namespace)
    }

    /// The volume as it is after the power cut. The node must not run.
    pub fn restore_power(&self) -> Result<(), String> {
        self.volume.unmount(&self.namespace)?;
        self.volume.mount(&self.namespace)
    }

    /// Fills its volume to the last block; says how many bytes that took.
    pub fn fill_volume(&self) -> Result<u64, String> {
        self.volume.fill(&self.namespace)
    }

    /// Gives the room back that [`TestHost::fill_volume`] took.
    pub fn free_volume(&self) -> Result<(), String> {
        self.volume.free(&self.namespace)
    }
}
