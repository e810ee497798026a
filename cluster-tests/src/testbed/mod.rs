//! Simulates a machine per node on this machine, with network namespaces, TUN interfaces and loop devices.
//!
//! # Overview
//!
//! [`Testbed`] gives each node a host with its own network, a switch between the hosts whose [`LinkRules`]
//! can block, delay or lose packets, a volume that can lose power or be full, and a [`Shim`] that steps its
//! clock and makes fsyncs fail. The test itself stays in its own namespace and reaches the hosts by an
//! address on the same switch.
//!
//! # Guarantees
//!
//! Nothing outlives the test process, even if that is killed: nodes end with it, and with them their
//! namespaces, interfaces, mounts and loop devices, none of which has a name on the machine. Files remain in
//! one directory, which the next run removes.
//!
//! # Non-goals
//!
//! The testbed does not support IPv6. It needs root, TUN and loop devices; [`Testbed::new`] reports what is
//! missing.
//!
//! # Caller contract
//!
//! Keep no file of a volume open over a power cut.

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

/// A host for each node of one cluster, created on demand.
pub struct Testbed {
    hosts: Mutex<Vec<Arc<TestHost>>>,
    switch: NetworkSwitch,
    network: [u8; 3],
    certificate: TestCertificate,
    run_dir: RunDir,
}

/// An end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkEnd {
    /// The `i`th node.
    Node(usize),
    /// The test process, with all publishers and subscribers.
    Clients,
}

/// The resources of one node.
pub struct TestHost {
    namespace: NamespaceHost,
    volume: Volume,
    /// Controls the clock and the fsyncs of the node.
    pub shim: Shim,
}

/// The host number of the test process.
const CLIENTS_HOST: u8 = 254;

impl Testbed {
    /// A testbed without hosts. The seed determines the fate of packets. `Err` names what this machine does
    /// not provide.
    pub fn new(seed: u64) -> Result<Testbed, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("a testbed needs root".to_owned());
        }
        let run_dir = RunDir::new(&std::env::temp_dir())?;
        let certificate = TestCertificate::new(run_dir.path())?;
        let (third_octet, tun) = allocate_network()?;
        let network = [10, 77, third_octet];
        let switch = NetworkSwitch::new(network, seed)?;
        switch.attach(CLIENTS_HOST, tun);
        let testbed = Testbed { hosts: Mutex::default(), switch, network, certificate, run_dir };
        // Missing features of the machine are reported now, and not during a test.
        testbed.try_host(0)?;
        Ok(testbed)
    }

    /// The host of the `i`th node.
    pub fn host(&self, i: usize) -> Arc<TestHost> {
        self.try_host(i).expect("create a further host")
    }

    /// Changes the rules for packets in one direction, from now on.
    pub fn set_link(&self, from: LinkEnd, to: LinkEnd, link: LinkRules) {
        self.switch.set_link(from.host_number(), to.host_number(), link);
    }

    /// Restores all links.
    pub fn restore_links(&self) {
        let nodes = (0..self.len()).map(LinkEnd::Node);
        let ends: Vec<_> = nodes.chain([LinkEnd::Clients]).collect();
        for &from in &ends {
            ends.iter().for_each(|&to| self.set_link(from, to, LinkRules::default()));
        }
    }

    /// The packet counts of one direction since the start.
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
        self.certificate.install(data).expect("install the certificate");
    }

    fn trust(&self) -> CertificateTrust {
        self.certificate.trust()
    }

    fn command(&self, i: usize, mut node: Command) -> Command {
        // The address is not a loopback address, and the switch keeps other machines out.
        node.arg("--insecure");
        self.host(i).command(node)
    }

    fn start(&self, i: usize, node: Command) -> io::Result<Child> {
        self.host(i).start(node)
    }
}

/// Prints, past the output capture of tests, that a test was skipped.
pub fn report_skipped(test: &str, reason: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED: {test}: {reason}");
}

/// Creates the interface of the test process in a /24 network that no other testbed uses; returns its third
/// octet.
fn allocate_network() -> Result<(u8, std::fs::File), String> {
    let mut last = String::new();
    for n in 0..=255u8 {
        let third_octet = (std::process::id() as u8).wrapping_add(n);
        // Interface names are unique on the machine, so the network is unique too.
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
            LinkEnd::Node(i) => u8::try_from(i + 1)
                .ok()
                .filter(|&h| h < CLIENTS_HOST)
                .expect("fewer than 253 nodes"),
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

    /// The path of the volume, valid for the node and for the test.
    pub fn volume_path(&self) -> PathBuf {
        self.namespace.path_from_outside(self.volume.path())
    }

    /// Prepares a command for [`TestHost::start`]: it uses the shim, and ends with this host.
    pub fn command(&self, mut inner: Command) -> Command {
        inner.envs(self.shim.environment());
        inner
    }

    /// Starts a command in this host's network and mount namespaces.
    pub fn start(&self, mut command: Command) -> io::Result<Child> {
        self.namespace.run(move || command.spawn())
    }

    /// Cuts the power of the volume: data without an fsync is lost, and every write fails. Kill the node
    /// afterwards, then call [`TestHost::restore_power`].
    pub fn cut_power(&self) -> Result<(), String> {
        self.volume.cut_power(&self.namespace)
    }

    /// Mounts the volume again after a power cut. The node must not run.
    pub fn restore_power(&self) -> Result<(), String> {
        self.volume.unmount(&self.namespace)?;
        self.volume.mount(&self.namespace)
    }

    /// Fills the volume to the last block; returns the number of bytes written.
    pub fn fill_volume(&self) -> Result<u64, String> {
        self.volume.fill(&self.namespace)
    }

    /// Frees the space that [`TestHost::fill_volume`] used.
    pub fn free_volume(&self) -> Result<(), String> {
        self.volume.free(&self.namespace)
    }
}
