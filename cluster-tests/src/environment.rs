//! Where the nodes of a cluster live.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use pushonce_client::CertificateTrust;

/// What a cluster stands on: an address for each node, a place for its data, and the world its
/// process runs in.
pub trait NodeEnvironment: Send + Sync {
    /// The address of the `i`th node, whether there is one or not. The tests reach it, and so do the
    /// other nodes.
    fn address(&self, i: usize) -> Ipv4Addr;

    /// The directory in which the `i`th node's data directory is made, if it has a volume of its own.
    /// Else its data lies in the directory of the story, beside the logs.
    fn volume(&self, _: usize) -> Option<PathBuf> {
        None
    }

    /// Puts into the `i`th node's data directory what has to be there before it starts, whether there
    /// is that directory or not.
    fn prepare_data_dir(&self, _: usize, _: &Path) {}

    /// Whose certificate clients of its QUIC doors are to trust.
    fn trust(&self) -> CertificateTrust {
        CertificateTrust::Development
    }

    /// The command that starts the `i`th node in its world, made of the one that would start it here.
    /// Signals go to the process of this command, so a wrapper must replace itself by the node.
    fn command(&self, _: usize, node: Command) -> Command {
        node
    }

    /// Starts that command, its input and output told, in the `i`th node's world.
    fn start(&self, _: usize, mut node: Command) -> io::Result<Child> {
        node.spawn()
    }
}

/// Another ground, on which every node has these environment variables.
pub(crate) struct WithEnvVars {
    /// Where the nodes live.
    pub(crate) inner: Arc<dyn NodeEnvironment>,
    /// Names and values.
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

/// Loopback addresses that no other story uses, and nothing else of its own.
pub struct Loopback {
    subnet: [u8; 2],
}

impl Loopback {
    /// Two numbers of 127.B.C.x that no other story on this machine uses now: the process tells the
    /// test binaries apart, the count the stories in one.
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

/// Loopback, where a node may have this many descriptors and cannot raise the limit.
pub struct LimitedDescriptors {
    loopback: Loopback,
    limit: u32,
}

impl LimitedDescriptors {
    /// At most `limit` descriptors a node.
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
