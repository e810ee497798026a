//! One node: a process of the binary.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;

use pushonce_client::{Server, Transport};
use rustix::process::{Pid, Signal, kill_process};

use crate::binary::{self, Build};
use crate::ground::Ground;
use crate::wait::{secs, until};

/// Where a node listens.
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
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub ports: Ports,
    index: usize,
    data: PathBuf,
    log: PathBuf,
    /// Where the ids of all processes of the story are written, for whoever cleans up after it.
    pids: PathBuf,
    ground: Arc<dyn Ground>,
    flags: Vec<String>,
    build: Build,
    process: Option<Child>,
}

/// The exit status of a node that the cluster has no place for.
pub const EXPELLED: i32 = 77;

/// The exit status of a node that has stopped for its disk.
pub const DISK_FAILED: i32 = 74;

impl Ports {
    /// The usual ports of an address of its own: the whole of 127.0.0.0/8 is this machine.
    pub fn at(ip: Ipv4Addr) -> Ports {
        let port = |port| SocketAddr::from((ip, port));
        Ports { http: port(7080), quic: port(7443), grpc: port(7090), peer: port(7091) }
    }

    /// The address of the door for a transport.
    pub fn server(&self, transport: Transport) -> Server {
        let text = match transport {
            Transport::Ws => format!("ws://{}", self.http),
            Transport::Quic => format!("quic://{}", self.quic),
            Transport::Grpc => format!("http://{}", self.grpc),
        };
        text.parse().expect("a good address")
    }

    /// As flags of the binary.
    pub fn flags(&self) -> Vec<String> {
        let doors = [
            ("--http", self.http),
            ("--quic", self.quic),
            ("--grpc", self.grpc),
            ("--peer", self.peer),
        ];
        doors.iter().flat_map(|(flag, address)| [flag.to_string(), address.to_string()]).collect()
    }
}

impl Node {
    pub(crate) fn new(
        index: usize,
        ports: Ports,
        home: &Path,
        ground: Arc<dyn Ground>,
        flags: Vec<String>,
    ) -> Node {
        let name = format!("node-{index}");
        let data = ground.volume(index).unwrap_or_else(|| home.to_owned()).join(&name);
        let log = home.join(format!("{name}.log"));
        let pids = home.join("pids");
        Node {
            name,
            ports,
            index,
            data,
            log,
            pids,
            ground,
            flags,
            build: Build::default(),
            process: None,
        }
    }

    /// Creates a cluster in the data directory, as an operator does once before the first start.
    pub fn init(&self) {
        let mut command = binary::command();
        // It opens no port; on a rig the addresses are not of the loopback.
        command.args(["init", "--insecure", "--lanes", "1", "--name", &self.name, "--data"]);
        command.arg(&self.data).args(self.ports.flags()).args(&self.flags);
        self.ground.furnish(self.index, &self.data);
        let done = command.stdin(Stdio::null()).output().expect("the binary starts");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Starts the process, on whatever data it has. Its output goes to its log, behind what is there.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// The same with more flags, for this one start.
    pub fn start_with(&mut self, more: &[&str]) {
        let log = File::options().create(true).append(true).open(&self.log).expect("a log file");
        self.start_logging_to(log.into(), more);
    }

    /// As [`Node::start`], with a pipe for its log that nobody reads.
    pub fn start_with_stuck_log(&mut self) {
        self.start_logging_to(Stdio::piped(), &[]);
    }

    /// As [`Node::start`], with a log that never takes anything: a full disk.
    pub fn start_with_full_log(&mut self) {
        let full = File::options().write(true).open("/dev/full").expect("a device of Linux");
        self.start_logging_to(full.into(), &[]);
    }

    /// Closes the reading end of the pipe of [`Node::start_with_stuck_log`].
    pub fn close_log(&mut self) {
        let process = self.process.as_mut().expect("it is running");
        drop(process.stderr.take().expect("its log is a pipe"));
    }

    fn start_logging_to(&mut self, log: Stdio, more: &[&str]) {
        assert!(self.process.is_none(), "{} is running", self.name);
        let mut command = binary::command_of(self.build);
        command.args(["serve", "--lanes", "1", "--name", &self.name, "--data"]);
        command.arg(&self.data).args(self.ports.flags()).args(&self.flags).args(more);
        self.ground.furnish(self.index, &self.data);
        let mut command = self.ground.command(self.index, command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = self.ground.start(self.index, command).expect("the binary starts");
        let pids = File::options().create(true).append(true).open(&self.pids);
        writeln!(pids.expect("a file of process ids"), "{}", child.id())
            .expect("it can be written");
        self.process = Some(child);
    }

    /// The next start is of this build.
    pub fn switch_to(&mut self, build: Build) {
        self.build = build;
    }

    /// Gives the node other addresses for its next start, and other nodes to ask. It must not run.
    pub fn move_to(&mut self, ports: Ports, join: &[SocketAddr]) {
        assert!(!self.runs(), "{} is running", self.name);
        self.ports = ports;
        if let Some(at) = self.flags.iter().position(|flag| flag == "--join") {
            self.flags.drain(at..at + 2);
        }
        if !join.is_empty() {
            let join: Vec<_> = join.iter().map(SocketAddr::to_string).collect();
            self.flags.extend(["--join".to_owned(), join.join(",")]);
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().expect("the process can be killed");
            child.wait().expect("the process ends");
        }
    }

    /// The process, while there is one.
    pub fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(Pid::from_child)
    }

    /// Stops the process where it stands (`SIGSTOP`); its sockets stay open.
    pub fn pause(&self) {
        kill_process(self.pid().expect("it is running"), Signal::STOP)
            .expect("it can be signalled");
    }

    /// Lets it go on.
    pub fn wake(&self) {
        kill_process(self.pid().expect("it is running"), Signal::CONT)
            .expect("it can be signalled");
    }

    /// Asks it to stop, as Ctrl-C does, and waits until it did.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::INT);
        self.ended().await
    }

    /// Asks it to stop, as a supervisor does, and does not wait.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Tells it that its terminal has gone.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid().expect("it is running"), signal)
            .expect("the process can be signalled");
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = self.process.as_mut().expect("it was started");
        let what = format!("the end of {}", self.name);
        let status = until(&what, secs(40), async || {
            child.try_wait().expect("it can be asked").ok_or_else(|| "it runs".to_owned())
        })
        .await;
        self.process = None;
        status
    }

    /// Whether the process has ended by itself, at this moment.
    pub fn has_ended(&mut self) -> bool {
        let child = self.process.as_mut();
        let ended =
            child.is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()));
        if ended {
            self.process = None;
        }
        ended
    }

    /// Removes all it has kept. It must not run.
    pub fn wipe(&self) {
        assert!(!self.runs(), "{} is running", self.name);
        std::fs::remove_dir_all(&self.data).expect("the data can be removed");
    }

    /// Whether the process is there.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// What the process has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where it keeps what it must not lose.
    pub fn data(&self) -> &std::path::Path {
        &self.data
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
