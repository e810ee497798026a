//! A host: a thread with its own network and mount namespaces that runs jobs in them.
//!
//! The namespaces have no name on the machine. They exist as long as the thread and the processes that it
//! started, which are killed with it: the kernel cleans up even after a run that was killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::mount::{MountPropagationFlags, mount_change};

use super::kernel;

/// A thread with its own network and mounts.
pub(super) struct NamespaceHost {
    /// `None` once the thread must end.
    jobs: Option<mpsc::Sender<HostJob>>,
    thread: Option<JoinHandle<()>>,
    id: i32,
}

type HostJob = Box<dyn FnOnce() + Send>;

impl NamespaceHost {
    /// A host with only its loopback interface. Needs root.
    pub(super) fn new() -> Result<NamespaceHost, String> {
        let (jobs, job_queue) = mpsc::channel::<HostJob>();
        let (ready_sender, ready_receiver) = mpsc::sync_channel(1);
        let body = move || {
            let _ = ready_sender.send(enter_namespaces());
            job_queue.into_iter().for_each(|job| job());
        };
        let thread = std::thread::Builder::new().name("host".to_owned()).spawn(body);
        let thread = thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        let id = ready_receiver.recv().map_err(|_| "the thread of a host has ended")??;
        Ok(NamespaceHost { jobs: Some(jobs), thread: Some(thread), id })
    }

    /// Runs a job on the host and returns its result.
    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (result_sender, result_receiver) = mpsc::sync_channel(1);
        let jobs = self.jobs.as_ref().expect("the host is not dropped");
        jobs.send(Box::new(move || drop(result_sender.send(job())))).expect("the host runs");
        result_receiver.recv().expect("a job of a host does not panic")
    }

    /// Runs a command on the host, which must succeed.
    pub(super) fn run_command(&self, line: &str) -> Result<(), String> {
        let line = line.to_owned();
        self.run(move || run_command(&line))
    }

    /// Creates a TUN interface on the host with an address in a /24 network, and returns its file.
    pub(super) fn create_tun(&self, address: &str) -> Result<File, String> {
        let file = self.run(|| attach_tun("rig"))?;
        self.run_command(&format!("ip address add {address}/24 dev rig"))?;
        self.run_command("ip link set rig up")?;
        Ok(file)
    }

    /// The path, outside the host, of a path that is absolute on the host.
    pub(super) fn path_from_outside(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/task/{}/root", std::process::id(), self.id);
        Path::new(&root).join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Drop for NamespaceHost {
    fn drop(&mut self) {
        self.jobs = None;
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(
            std::thread::panicking() || matches!(ended, None | Some(Ok(()))),
            "a host panicked"
        );
    }
}

/// Enters new network and mount namespaces; returns the id of the calling thread.
fn enter_namespaces() -> Result<i32, String> {
    kernel::unshare_namespaces().map_err(|error| format!("cannot create namespaces: {error}"))?;
    // Otherwise mounts of this thread would propagate to the machine.
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags).map_err(|error| format!("cannot make mounts private: {error}"))?;
    run_command("ip link set lo up")?;
    Ok(rustix::thread::gettid().as_raw_nonzero().get())
}

/// Creates a TUN interface in the network namespace of the calling thread.
pub(super) fn attach_tun(name: &str) -> Result<File, String> {
    let file = File::options().read(true).write(true).open("/dev/net/tun");
    let file = file.map_err(|error| format!("/dev/net/tun: {error}"))?;
    kernel::attach_tun(&file, name)
        .map_err(|error| format!("cannot create TUN interface {name}: {error}"))?;
    Ok(file)
}

/// Runs a command given as words separated by single spaces, which must succeed.
pub(super) fn run_command(line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    let program = words.next().expect("a command");
    let output = Command::new(program).args(words).output();
    let output = output.map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
