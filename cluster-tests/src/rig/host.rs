//! A host: a thread with a network and mounts of its own, which does what is to be done there.
//!
//! Nothing of it has a name on the machine. Its namespaces are there for as long as the thread and
//! the processes that it started, and those are killed with it: the kernel cleans up, also after a
//! run that was killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::mount::{MountPropagationFlags, mount_change};

use super::kernel;

/// A thread apart.
pub(super) struct Host {
    /// `None` once it is to end.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    id: i32,
}

type Job = Box<dyn FnOnce() + Send>;

impl Host {
    /// A host with nothing but its loopback. Needs root.
    pub(super) fn new() -> Result<Host, String> {
        let (jobs, next) = mpsc::channel::<Job>();
        let (ready, is_ready) = mpsc::sync_channel(1);
        let body = move || {
            let _ = ready.send(leave());
            next.into_iter().for_each(|job| job());
        };
        let thread = std::thread::Builder::new().name("host".to_owned()).spawn(body);
        let thread = thread.map_err(|why| format!("no thread: {why}"))?;
        let id = is_ready.recv().map_err(|_| "the thread of a host has ended")??;
        Ok(Host { jobs: Some(jobs), thread: Some(thread), id })
    }

    /// Does something there, and waits for it.
    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, is_done) = mpsc::sync_channel(1);
        let jobs = self.jobs.as_ref().expect("until the end");
        jobs.send(Box::new(move || drop(done.send(job())))).expect("the host is there");
        is_done.recv().expect("what is done at a host does not panic")
    }

    /// Runs a command there to its end, which must be a good one.
    pub(super) fn command(&self, line: &str) -> Result<(), String> {
        let line = line.to_owned();
        self.run(move || command(&line))
    }

    /// Makes a TUN interface there with an address of a network of 256, and gives its file.
    pub(super) fn tun(&self, address: &str) -> Result<File, String> {
        let file = self.run(|| tun("rig"))?;
        self.command(&format!("ip address add {address}/24 dev rig"))?;
        self.command("ip link set rig up")?;
        Ok(file)
    }

    /// How a path that is absolute there is reached from outside.
    pub(super) fn outside(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/task/{}/root", std::process::id(), self.id);
        Path::new(&root).join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.jobs = None;
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(
            std::thread::panicking() || matches!(ended, None | Some(Ok(()))),
            "a host panicked"
        );
    }
}

/// Leaves the machine's network and mounts; says which thread that is.
fn leave() -> Result<i32, String> {
    kernel::leave_the_machine().map_err(|why| format!("no namespaces of its own: {why}"))?;
    // Or what is mounted here would be mounted on the machine too.
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags).map_err(|why| format!("no mounts of its own: {why}"))?;
    command("ip link set lo up")?;
    Ok(rustix::thread::gettid().as_raw_nonzero().get())
}

/// Makes a TUN interface in the network of the calling thread.
pub(super) fn tun(name: &str) -> Result<File, String> {
    let file = File::options().read(true).write(true).open("/dev/net/tun");
    let file = file.map_err(|why| format!("/dev/net/tun: {why}"))?;
    kernel::attach_tun(&file, name).map_err(|why| format!("no TUN {name}: {why}"))?;
    Ok(file)
}

/// Runs a command, words apart by blanks, to its good end.
pub(super) fn command(line: &str) -> Result<(), String> {
    let mut words = line.split(' ');
    let program = words.next().expect("a command");
    let output = Command::new(program).args(words).output();
    let output = output.map_err(|why| format!("{line}: {why}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
