//! One node: a process of the `pushonce` binary.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;

use pushonce_client::{ServerAddress, Transport};
use rustix::process::{Pid, Signal, kill_process};

use crate::binary::{self, BinaryBuild};
use crate::environment::NodeEnvironment;
use crate::wait::{secs, wait_until};

/// The listening addresses of a node.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// HTTP and WebSocket.
    pub http: SocketAddr,
    /// QUIC.
    pub quic: SocketAddr,
    /// gRPC for publishers and operators.
    pub grpc: SocketAddr,
    /// gRPC between nodes.
    pub peer: SocketAddr,
}

/// A node, running or not.
pub struct ClusterNode {
    /// The node's name.
    pub name: String,
    /// The listening addresses.
    pub ports: Ports,
    index: usize,
    data_dir: PathBuf,
    log_file: PathBuf,
    /// The file with the ids of all processes of the test, for the watchdog that kills them.
    pids_file: PathBuf,
    environment: Arc<dyn NodeEnvironment>,
    flags: Vec<String>,
    build: BinaryBuild,
    process: Option<Child>,
}

/// The exit status of a node that was removed from the cluster.
pub const EXIT_REMOVED: i32 = 77;

/// The exit status of a node that stopped because its disk failed.
pub const EXIT_DISK_FAILED: i32 = 74;

impl Ports {
    /// The default ports at the given address. Every address in 127.0.0.0/8 is this machine.
    pub fn for_ip(ip: Ipv4Addr) -> Ports {
        let port = |port| SocketAddr::from((ip, port));
        Ports { http: port(7080), quic: port(7443), grpc: port(7090), peer: port(7091) }
    }

    /// The server address for a transport.
    pub fn server(&self, transport: Transport) -> ServerAddress {
        let text = match transport {
            Transport::Ws => format!("ws://{}", self.http),
            Transport::Quic => format!("quic://{}", self.quic),
            Transport::Grpc => format!("http://{}", self.grpc),
            _ => panic!("the nodes have no listener for {transport}"),
        };
        text.parse().expect("a valid address")
    }

    /// The addresses as flags of the binary.
    pub fn flags(&self) -> Vec<String> {
        let listeners = [
            ("--http", self.http),
            ("--quic", self.quic),
            ("--grpc", self.grpc),
            ("--peer", self.peer),
        ];
        listeners
            .iter()
            .flat_map(|(flag, address)| [flag.to_string(), address.to_string()])
            .collect()
    }
}

impl ClusterNode {
    pub(crate) fn new(
        index: usize,
        ports: Ports,
        dir: &Path,
        environment: Arc<dyn NodeEnvironment>,
        flags: Vec<String>,
    ) -> ClusterNode {
        let name = format!("node-{index}");
        let data = environment.volume(index).unwrap_or_else(|| dir.to_owned()).join(&name);
        let log = dir.join(format!("{name}.log"));
        let pids = dir.join("pids");
        ClusterNode {
            name,
            ports,
            index,
            data_dir: data,
            log_file: log,
            pids_file: pids,
            environment,
            flags,
            build: BinaryBuild::default(),
            process: None,
        }
    }

    /// Creates a cluster in the data directory with `pushonce init`.
    pub fn init_cluster(&self) {
        let mut command = binary::current_command();
        // `init` opens no port, but it checks the addresses, which are not loopback addresses on a testbed.
        command.args(["init", "--insecure", "--lanes", "1", "--name", &self.name, "--data"]);
        command.arg(&self.data_dir).args(self.ports.flags()).args(&self.flags);
        self.environment.prepare_data_dir(self.index, &self.data_dir);
        let output = command.stdin(Stdio::null()).output().expect("start the binary");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts the process with the data it has. Its output is appended to its log file.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// As [`ClusterNode::start`], with additional flags for this start only.
    pub fn start_with(&mut self, extra_flags: &[&str]) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log_file)
            .expect("open the log file");
        self.start_logging_to(log.into(), extra_flags);
    }

    /// As [`ClusterNode::start`], with a pipe for its log that is never read.
    pub fn start_with_unread_log_pipe(&mut self) {
        self.start_logging_to(Stdio::piped(), &[]);
    }

    /// As [`ClusterNode::start`], with a log on a full disk: every write fails.
    pub fn start_with_full_log(&mut self) {
        let full = File::options().write(true).open("/dev/full").expect("open /dev/full");
        self.start_logging_to(full.into(), &[]);
    }

    /// Closes the reading end of the pipe of [`ClusterNode::start_with_unread_log_pipe`].
    pub fn close_log_pipe(&mut self) {
        let process = self.process.as_mut().expect("the node runs");
        drop(process.stderr.take().expect("the log is a pipe"));
    }

    fn start_logging_to(&mut self, log: Stdio, extra_flags: &[&str]) {
        assert!(self.process.is_none(), "{} is running", self.name);
        let mut command = binary::command_for_build(self.build);
        command.args(["serve", "--lanes", "1", "--name", &self.name, "--data"]);
        command.arg(&self.data_dir).args(self.ports.flags()).args(&self.flags).args(extra_flags);
        self.environment.prepare_data_dir(self.index, &self.data_dir);
        let mut command = self.environment.command(self.index, command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = self.environment.start(self.index, command).expect("start the binary");
        let pids = File::options().create(true).append(true).open(&self.pids_file);
        writeln!(pids.expect("open the file of process ids"), "{}", child.id())
            .expect("write the file of process ids");
        self.process = Some(child);
    }

    /// Uses another build for the next start.
    pub fn set_build(&mut self, build: BinaryBuild) {
        self.build = build;
    }

    /// Changes the addresses and the `--join` flag for the next start. The node must not run.
    pub fn set_addresses(&mut self, ports: Ports, join: &[SocketAddr]) {
        assert!(!self.is_running(), "{} is running", self.name);
        self.ports = ports;
        if let Some(index) = self.flags.iter().position(|flag| flag == "--join") {
            self.flags.drain(index..index + 2);
        }
        if !join.is_empty() {
            let join: Vec<_> = join.iter().map(SocketAddr::to_string).collect();
            self.flags.extend(["--join".to_owned(), join.join(",")]);
        }
    }

    /// Kills the process with SIGKILL and waits until it has exited.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().expect("kill the process");
            child.wait().expect("wait for the process");
        }
    }

    /// The process id, while the node runs.
    pub fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(Pid::from_child)
    }

    /// Pauses the process with SIGSTOP. Its sockets stay open.
    pub fn pause(&self) {
        kill_process(self.pid().expect("the node runs"), Signal::STOP).expect("signal the process");
    }

    /// Continues a paused process with SIGCONT.
    pub fn resume(&self) {
        kill_process(self.pid().expect("the node runs"), Signal::CONT).expect("signal the process");
    }

    /// Stops the process with SIGINT, as Ctrl-C does, and waits until it has exited.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::INT);
        self.wait_exit().await
    }

    /// Sends SIGTERM, as a supervisor does, and does not wait.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGHUP, as a closed terminal does.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid().expect("the node runs"), signal).expect("signal the process");
    }

    /// Waits until the process has exited by itself.
    pub async fn wait_exit(&mut self) -> ExitStatus {
        let child = self.process.as_mut().expect("the node was started");
        let condition = format!("exit of {}", self.name);
        let status = wait_until(&condition, secs(40), async || {
            child.try_wait().expect("query the process").ok_or_else(|| "it still runs".to_owned())
        })
        .await;
        self.process = None;
        status
    }

    /// Whether the process has exited by itself.
    pub fn has_exited(&mut self) -> bool {
        let child = self.process.as_mut();
        let exited =
            child.is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()));
        if exited {
            self.process = None;
        }
        exited
    }

    /// Removes the data directory. The node must not run.
    pub fn wipe(&self) {
        assert!(!self.is_running(), "{} is running", self.name);
        std::fs::remove_dir_all(&self.data_dir).expect("remove the data directory");
    }

    /// Whether the node was started and has not been stopped.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The text of the log file.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log_file).unwrap_or_default()
    }

    /// The data directory.
    pub fn data_dir(&self) -> &std::path::Path {
        &self.data_dir
    }
}

impl Drop for ClusterNode {
    fn drop(&mut self) {
        self.kill();
    }
}
