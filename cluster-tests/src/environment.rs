//! The environment in which the nodes of a cluster run.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pushonce_client::CertificateTrust;

/// Provides an address, a data volume and a process environment for each node of a cluster.
pub trait NodeEnvironment: Send + Sync {
    /// The address of the `i`th node, whether the node exists or not. Tests and the other nodes reach it.
    fn address(&self, i: usize) -> Ipv4Addr;

    /// The directory in which the `i`th node's data directory is created, if the node has a volume of its
    /// own. Otherwise the data lies beside the logs, in the directory of the test.
    fn volume(&self, _: usize) -> Option<PathBuf> {
        None
    }

    /// Puts required files into the `i`th node's data directory before the node starts. The directory may
    /// not exist yet.
    fn prepare_data_dir(&self, _: usize, _: &Path) {}

    /// The certificate that QUIC clients must trust.
    fn trust(&self) -> CertificateTrust {
        CertificateTrust::System
    }

    /// Wraps the command that starts the `i`th node. Signals are sent to the process of this command, so a
    /// wrapper must replace itself with the node (`exec`).
    fn command(&self, _: usize, node: Command) -> Command {
        node
    }

    /// Starts the `i`th node with that command, whose input and output are already set.
    fn start(&self, _: usize, mut node: Command) -> io::Result<Child> {
        node.spawn()
    }
}

/// An environment that adds environment variables to every node.
pub(crate) struct WithEnvVars {
    /// The wrapped environment.
    pub(crate) inner: Arc<dyn NodeEnvironment>,
    /// Names and values of the variables.
    pub(crate) variables: Vec<(&'static str, String)>,
}

impl NodeEnvironment for WithEnvVars {
    fn address(&self, i: usize) -> Ipv4Addr {
        self.inner.address(i)
    }

    fn volume(&self, i: usize) -> Option<PathBuf> {
        self.inner.volume(i)
    }

    fn prepare_data_dir(&self, i: usize, data: &Path) {
        self.inner.prepare_data_dir(i, data);
    }

    fn trust(&self) -> CertificateTrust {
        self.inner.trust()
    }

    fn command(&self, i: usize, mut node: Command) -> Command {
        node.envs(self.variables.iter().map(|(name, value)| (name, value)));
        self.inner.command(i, node)
    }

    fn start(&self, i: usize, node: Command) -> io::Result<Child> {
        self.inner.start(i, node)
    }
}

/// Loopback addresses that no other test uses. Everything else is shared with the machine.
pub struct Loopback {
    subnet: [u8; 2],
}

impl Loopback {
    /// Chooses B and C of 127.B.C.x. The process id separates test binaries, the counter separates the tests
    /// of one binary.
    pub fn new() -> Loopback {
        static INSTANCES: AtomicU32 = AtomicU32::new(0);
        let instance = INSTANCES.fetch_add(1, Ordering::Relaxed);
        let number = std::process::id().wrapping_mul(8).wrapping_add(instance) % (250 * 250);
        Loopback { subnet: [number / 250, number % 250].map(|byte| byte as u8 + 2) }
    }
}

impl Default for Loopback {
    fn default() -> Loopback {
        Loopback::new()
    }
}

impl NodeEnvironment for Loopback {
    fn address(&self, i: usize) -> Ipv4Addr {
        let [b, c] = self.subnet;
        Ipv4Addr::new(127, b, c, i as u8 + 1)
    }
}

/// Loopback, with a limit of file descriptors that a node cannot raise.
pub struct LimitedDescriptors {
    loopback: Loopback,
    limit: u32,
}

impl LimitedDescriptors {
    /// Limits each node to `limit` descriptors.
    pub fn new(limit: u32) -> LimitedDescriptors {
        LimitedDescriptors { loopback: Loopback::new(), limit }
    }
}

impl NodeEnvironment for LimitedDescriptors {
    fn address(&self, i: usize) -> Ipv4Addr {
        self.loopback.address(i)
    }

    fn command(&self, _: usize, node: Command) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {} && exec \"$@\"", self.limit), "sh"]);
        shell.arg(node.get_program()).args(node.get_args());
        for (name, value) in node.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell
    }
}
