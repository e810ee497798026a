//! A simulated cluster: hosts, nodes, and the host of the clients.

use std::cell::Cell;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use pushonce::config::{Config, HostDefaults, HumanDuration, Settings};
use pushonce_cluster_tests::{Ports, load};

use crate::kernel::{self, HostId, HostState};
use crate::process;

/// The nodes of a run, each on a host of its own.
pub struct SimulatedCluster {
    root: PathBuf,
    metrics: PrometheusHandle,
    shards: u16,
    replicas: u8,
    nodes: Vec<SimulatedNode>,
    /// The host of all clients.
    clients: HostId,
    /// The names of members whose files were deleted.
    lost: Vec<String>,
}

/// A node, running or not.
struct SimulatedNode {
    host: HostId,
    /// Changes when another node takes its place.
    name: String,
    /// Whether an operator lets it create the cluster, once.
    creates_cluster: bool,
    /// The number of times that its address for the other nodes has changed.
    address_changes: u16,
    /// The number of all such changes when it started last.
    known_changes: Cell<u16>,
}

/// The address of the clients' host. Those of the nodes end in 1, 2, 3 …
const CLIENTS_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 100);

/// The size at which a log is replaced by a snapshot.
const LOG_BYTES_MAX: u64 = 16 << 10;

/// The file with the logs of a node.
pub const LOG_FILE: &str = "raft.redb";

/// The file with the identity of a node.
const IDENTITY_FILE: &str = "identity.json";

impl SimulatedCluster {
    /// The shortest time that a sync of a usual disk takes, in nanoseconds.
    pub const SYNC_NS: u64 = 150_000;

    /// A cluster of nodes that do not run yet, with their files below `root`.
    ///
    /// # Errors
    /// When the files cannot be created.
    pub fn new(
        root: &Path,
        nodes: usize,
        shards: u16,
        metrics: PrometheusHandle,
    ) -> io::Result<SimulatedCluster> {
        let clients = kernel::with(|kernel| kernel.add_host(CLIENTS_ADDRESS));
        let mut cluster = SimulatedCluster {
            root: root.to_owned(),
            metrics,
            shards,
            replicas: 3,
            nodes: Vec::new(),
            clients,
            lost: Vec::new(),
        };
        for _ in 0..nodes {
            cluster.add_node()?;
        }
        Ok(cluster)
    }

    /// Adds a host with a node that does not run yet; returns the number of the node.
    ///
    /// # Errors
    /// When its directory cannot be created.
    pub fn add_node(&mut self) -> io::Result<usize> {
        let number = self.nodes.len();
        let host = kernel::with(|kernel| kernel.add_host(address(number)));
        let disk = self.disk(number);
        std::fs::create_dir_all(&disk)?;
        kernel::with(|kernel| {
            kernel.set_disk_root(host, disk);
            kernel.set_sync_time(host, SimulatedCluster::SYNC_NS);
        });
        let name = format!("host-{number}");
        self.nodes.push(SimulatedNode {
            host,
            name,
            creates_cluster: number == 0,
            address_changes: 0,
            known_changes: Cell::new(0),
        });
        Ok(number)
    }

    /// The host of the clients.
    pub fn clients(&self) -> HostId {
        self.clients
    }

    /// The number of nodes, running or not.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The host of a node.
    pub fn host(&self, node: usize) -> HostId {
        self.nodes[node].host
    }

    /// The name of a node in its cluster.
    pub fn name(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    /// The addresses of a node.
    pub fn ports(&self, node: usize) -> Ports {
        let mut ports = Ports::for_ip(address(node));
        ports.peer.set_port(ports.peer.port() + 100 * self.nodes[node].address_changes);
        ports
    }

    /// Lets a node listen for the others on another port, from its next start on. Nodes that start later than that know
    /// the new address.
    pub fn change_address(&mut self, node: usize) {
        self.nodes[node].address_changes += 1;
    }

    /// The addresses of all nodes.
    pub fn all_ports(&self) -> Vec<Ports> {
        (0..self.len()).map(|node| self.ports(node)).collect()
    }

    /// The folder that holds the files of a node, which its disk remembers.
    pub fn disk(&self, node: usize) -> PathBuf {
        self.root.join(format!("n{node}"))
    }

    /// The data directory of a node.
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.disk(node).join("data")
    }

    /// Whether the node has a process.
    pub fn is_running(&self, node: usize) -> bool {
        kernel::with(|kernel| kernel.has_process(self.host(node)))
    }

    /// Starts the process of a node, unless it runs. A host without power gets it back.
    pub fn start(&self, node: usize) {
        let host = self.host(node);
        if self.is_running(node) {
            return;
        }
        kernel::with(|kernel| kernel.set_host_state(host, HostState::Running));
        self.nodes[node].known_changes.set(self.all_changes());
        let creates_cluster = self.nodes[node].creates_cluster;
        let (settings, metrics) = (self.settings(node), self.metrics.clone());
        kernel::spawn_on(host, move || process::run_node(settings, creates_cluster, metrics));
    }

    /// Deletes the files of a node that does not run. It joins as a new node.
    ///
    /// # Errors
    /// When they cannot be deleted.
    pub fn wipe(&mut self, node: usize) -> io::Result<()> {
        match std::fs::remove_dir_all(self.data_dir(node)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let entry = &mut self.nodes[node];
        entry.creates_cluster = false;
        self.lost.push(entry.name.clone());
        entry.name += "r";
        Ok(())
    }

    /// Deletes log and identity of a node that does not run, but not the file by which its cluster knows the directory.
    ///
    /// # Errors
    /// When they cannot be deleted.
    pub fn delete_log(&mut self, node: usize) -> io::Result<()> {
        for file in [LOG_FILE, IDENTITY_FILE] {
            match std::fs::remove_file(self.data_dir(node).join(file)) {
                // The node never ran.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        self.nodes[node].creates_cluster = false;
        Ok(())
    }

    /// Whether a node was started before another one got its present address. A member learns the address from the cluster,
    /// a node that joins does not.
    pub fn has_old_addresses(&self, node: usize) -> bool {
        self.nodes[node].known_changes.get() < self.all_changes()
    }

    fn all_changes(&self) -> u16 {
        self.nodes.iter().map(|node| node.address_changes).sum()
    }

    /// The names of members whose files were deleted: an operator has to remove them.
    pub fn lost(&self) -> &[String] {
        &self.lost
    }

    fn settings(&self, node: usize) -> Config {
        let ports = self.ports(node);
        let others = (0..self.len()).filter(|&other| other != node);
        // Members find each other by their views, until their addresses change.
        let has_moved = self.nodes.iter().any(|node| node.address_changes > 0);
        let is_first = self.nodes[node].creates_cluster && !has_moved;
        let join = others.map(|other| self.ports(other).peer.to_string());
        let settings = Settings {
            name: Some(self.nodes[node].name.clone()),
            data: Some(self.data_dir(node)),
            http: ports.http,
            quic: ports.quic,
            grpc: ports.grpc,
            peer: ports.peer,
            shards: self.shards,
            replicas: self.replicas,
            lanes: Some(1),
            session_heartbeat: HumanDuration(load::HEARTBEAT_INTERVAL),
            shutdown_grace: HumanDuration(Duration::from_secs(2)),
            join: if is_first { Vec::new() } else { join.collect() },
            ..Settings::default()
        };
        let host = HostDefaults { data_home: self.disk(node), working_dir: self.disk(node) };
        let mut config = Config::resolve_on(&host, settings).expect("valid settings");
        // So short that a replica which was away for some seconds needs a snapshot.
        config.consensus.log_bytes_max = LOG_BYTES_MAX;
        config.consensus.log_bytes_kept = LOG_BYTES_MAX / 4;
        config
    }
}

fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, u8::try_from(node + 1).expect("fewer than 99 nodes"))
}
