//! Runs the command lines of a page as an operator types them on several hosts.
//!
//! A host is a directory and a loopback address, which stands for its name in every line, and for 0.0.0.0, all
//! addresses of a machine. `scp` copies between the directories.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::binary;
use crate::cli::{CommandOutput, wait_output};
use crate::environment::{Loopback, NodeEnvironment as _};

/// Stands for `scp FILE… HOST:`.
const SCP: &str = "#!/bin/sh
for last; do :; done
while [ $# -gt 1 ]; do cp -p \"$1\" \"$HOSTS/${last%:}/\" || exit 1; shift; done
";

/// A command line, and the host on which it is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCommand {
    /// The name of the host.
    pub host: String,
    /// The line.
    pub line: String,
}

/// The hosts of a page.
pub struct Hosts {
    directory: TempDir,
    addresses: BTreeMap<String, Ipv4Addr>,
}

/// A command that runs until it is dropped.
pub struct RunningCommand {
    child: Child,
    output: PathBuf,
}

impl HostCommand {
    /// The commands in the blocks ```` ```text ```` of a page: lines `HOST$ COMMAND`. One list for each block.
    pub fn parse_page(page: &str) -> Vec<Vec<HostCommand>> {
        let blocks = page.split("```text\n").skip(1);
        let lines = |block: &str| {
            let end = block.find("```").expect("the block ends");
            let parse = |line: &str| {
                let (host, line) = line.split_once("$ ").expect("HOST$ COMMAND");
                HostCommand { host: host.to_owned(), line: line.to_owned() }
            };
            block[..end].lines().map(parse).collect()
        };
        blocks.map(lines).collect()
    }

    /// The same line with another text in place of one that it contains.
    pub fn with(&self, text: &str, replacement: &str) -> HostCommand {
        assert!(self.line.contains(text), "{text:?} is not in {}", self.line);
        HostCommand { line: self.line.replace(text, replacement), ..self.clone() }
    }
}

impl Hosts {
    /// Makes a directory for each host, and chooses its address: 127.B.C.2 and so on.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Hosts {
        let directory = tempfile::tempdir().expect("create a temporary directory");
        let loopback = Loopback::new();
        let with_address = |(i, name): (usize, &str)| (name.to_owned(), loopback.address(i + 1));
        let hosts = Hosts {
            addresses: names.into_iter().enumerate().map(with_address).collect(),
            directory,
        };
        for host in hosts.addresses.keys() {
            fs::create_dir(hosts.home(host)).expect("create the directory of a host");
        }
        let bin = hosts.bin();
        fs::create_dir(&bin).expect("create the directory of programs");
        symlink(binary::current_command().get_program(), bin.join("pushonce")).expect("linked");
        fs::write(bin.join("scp"), SCP).expect("written");
        fs::set_permissions(bin.join("scp"), fs::Permissions::from_mode(0o755)).expect("set");
        hosts
    }

    fn bin(&self) -> PathBuf {
        self.directory.path().join("bin")
    }

    /// The address of a host.
    pub fn address(&self, host: &str) -> Ipv4Addr {
        self.addresses[host]
    }

    /// The directory of a host.
    pub fn home(&self, host: &str) -> PathBuf {
        self.directory.path().join(self.address(host).to_string())
    }

    /// A line with addresses in place of the names of hosts.
    fn with_addresses(&self, line: &str) -> String {
        let replace = |line: String, (host, address): (&String, &Ipv4Addr)| {
            line.replace(host, &address.to_string())
        };
        self.addresses.iter().fold(line.to_owned(), replace)
    }

    /// Runs a command to its end.
    pub async fn run(&self, command: &HostCommand) -> CommandOutput {
        let line = command.line.replace("0.0.0.0", &self.address(&command.host).to_string());
        self.run_unbound(&HostCommand { line, ..command.clone() }).await
    }

    /// As [`Hosts::run`], with 0.0.0.0 as it stands: for commands that listen nowhere.
    pub async fn run_unbound(&self, command: &HostCommand) -> CommandOutput {
        let mut shell = self.shell(&command.host, &command.line);
        shell.stdout(Stdio::piped()).stderr(Stdio::piped());
        wait_output(shell.spawn().expect("start the shell")).await
    }

    /// Starts a command that runs until it is stopped. Its output goes to the file `name`.
    pub fn start(&self, command: &HostCommand, name: &str) -> RunningCommand {
        let line = command.line.replace("0.0.0.0", &self.address(&command.host).to_string());
        let output = self.home(&command.host).join(name);
        let file = || File::options().create(true).append(true).open(&output).expect("writable");
        let mut shell = self.shell(&command.host, &line);
        shell.stdout(file()).stderr(file()).process_group(0);
        RunningCommand { child: shell.spawn().expect("start the shell"), output }
    }

    fn shell(&self, host: &str, line: &str) -> Command {
        let home = self.home(host);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path =
            std::env::join_paths([self.bin()].into_iter().chain(std::env::split_paths(&path)));
        let mut shell = Command::new("sh");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PUSHONCE_") {
                shell.env_remove(name);
            }
        }
        shell
            .args(["-c", &self.with_addresses(line)])
            .current_dir(&home)
            .env("PATH", path.expect("a path"))
            .env("HOME", &home)
            .env("XDG_DATA_HOME", home.join("data"))
            .env("HOSTS", self.directory.path())
            // Each host has a 127.0.0.1 of its own, where the plain port listens.
            .env("PUSHONCE_HTTP", format!("{}:7080", self.address(host)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        shell
    }
}

impl RunningCommand {
    /// The output until now.
    pub fn output(&self) -> String {
        read(&self.output)
    }

    /// The output until now. Panics if the command has ended.
    pub fn output_while_running(&mut self) -> String {
        let ended = self.child.try_wait().expect("query the process");
        assert!(ended.is_none(), "it ended with {ended:?}: {}", self.output());
        self.output()
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        // The shell and the command.
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id as i32)) {
            // Fails only when all have ended.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
