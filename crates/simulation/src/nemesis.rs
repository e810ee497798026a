//! Carries out a schedule.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use pushonce_core::ClusterVersion;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::cluster::{LOG_FILE, SimulatedCluster};
use crate::kernel::{self, HostId, HostState, LinkState};
use crate::operator;
use crate::schedule::{Action, Command, Endpoint, Schedule};

/// The number of bits that [`Action::FlipBits`] changes. With more of them the file as a whole is damaged, and never a
/// replica alone.
const FLIPPED_BITS: usize = 3;

/// The longest time that a node takes to shut down.
const STOP_MAX: Duration = Duration::from_secs(10);

/// What happens to a cluster during a run.
pub struct Nemesis<'a> {
    /// The cluster.
    pub cluster: &'a mut SimulatedCluster,
    /// The nodes that an operator removed.
    pub removed: BTreeSet<usize>,
    /// Commands that are not finished.
    commands: JoinSet<(Command, Result<(), String>)>,
}

impl Nemesis<'_> {
    /// A nemesis that has done nothing yet.
    pub fn new(cluster: &mut SimulatedCluster) -> Nemesis<'_> {
        Nemesis { cluster, removed: BTreeSet::new(), commands: JoinSet::new() }
    }

    /// Carries out all steps, and waits until `length` is over.
    ///
    /// # Errors
    /// When the files of a node cannot be changed.
    pub async fn run(&mut self, schedule: &Schedule, length: Duration) -> io::Result<()> {
        let begun = Instant::now();
        for step in &schedule.steps {
            sleep_until(begun + step.at).await;
            tracing::info!(%step, "nemesis");
            self.perform(&step.action)?;
        }
        sleep_until(begun + length).await;
        Ok(())
    }

    fn perform(&mut self, action: &Action) -> io::Result<()> {
        if action.node().is_some_and(|node| node >= self.cluster.len()) {
            return Ok(());
        }
        match *action {
            Action::Kill { node } => kernel::kill(self.cluster.host(node)),
            Action::CutPower { node } => kernel::cut_power(self.cluster.host(node)),
            Action::CutPowerAfter { node, operations } => {
                self.on_host(node, |kernel, host| kernel.cut_power_after(host, operations));
            }
            Action::Start { node } => self.cluster.start(node),
            Action::Stop { node } => kernel::raise_signal(self.cluster.host(node)),
            Action::Pause { node } => self.set_state(node, HostState::Paused),
            Action::Suspend { node } => self.set_state(node, HostState::Suspended),
            Action::Resume { node } => self.set_state(node, HostState::Running),
            Action::Cut { from, to } => {
                self.set_link(from, to, LinkState { is_cut: true, ..LinkState::default() });
            }
            Action::Restore { from, to } => self.set_link(from, to, LinkState::default()),
            Action::Degrade { from, to, latency_ms, loss, bytes_per_ms } => {
                let usual = LinkState::default();
                let state = LinkState {
                    latency_us: usual.latency_us + latency_ms * 1_000,
                    jitter_us: usual.jitter_us + latency_ms * 500,
                    loss_per_mille: loss,
                    bytes_per_ms,
                    ..usual
                };
                self.set_link(from, to, state);
            }
            Action::Reset { from, to } => {
                let (from, to) = (self.endpoint(from), self.endpoint(to));
                kernel::with(|kernel| kernel.reset_connections(from, to));
            }
            Action::Stall { from, to, connection } => {
                let (from, to) = (self.endpoint(from), self.endpoint(to));
                kernel::with(|kernel| kernel.stall_connection(from, to, connection as usize));
            }
            Action::StepClock { node, by_ms } => {
                self.on_host(node, |kernel, host| kernel.step_date(host, by_ms * 1_000_000));
            }
            Action::Drift { node, ppm } => {
                self.on_host(node, |kernel, host| kernel.set_drift(host, ppm));
            }
            Action::FillDisk { node } => {
                self.on_host(node, |kernel, host| kernel.set_disk_full(host, true));
            }
            Action::FreeDisk { node } => {
                self.on_host(node, |kernel, host| kernel.set_disk_full(host, false));
            }
            Action::SlowDisk { node, sync_ms } => {
                let ns = SimulatedCluster::SYNC_NS.max(sync_ms * 1_000_000);
                self.on_host(node, |kernel, host| kernel.set_sync_time(host, ns));
            }
            Action::FailSync { node } => {
                self.on_host(node, |kernel, host| kernel.fail_syncs(host, 1));
            }
            Action::FlipBits { node, place } => self.flip_bits(node, place)?,
            Action::SaveFiles { node } => self.copy_files(node, true)?,
            Action::RestoreFiles { node } => self.copy_files(node, false)?,
            Action::Install { node, version } => {
                self.on_host(node, |kernel, host| kernel.set_build(host, version));
            }
            Action::Wipe { node } => {
                self.kill_and_settle(node);
                self.cluster.wipe(node)?;
            }
            Action::DeleteLog { node } => {
                self.kill_and_settle(node);
                self.cluster.delete_log(node)?;
            }
            Action::ChangeAddress { node } => self.cluster.change_address(node),
            Action::Operator(ref command) => self.command(command)?,
        }
        Ok(())
    }

    fn on_host(&self, node: usize, change: impl FnOnce(&mut kernel::Kernel, HostId)) {
        let host = self.cluster.host(node);
        kernel::with(|kernel| change(kernel, host));
    }

    fn set_state(&self, node: usize, state: HostState) {
        self.on_host(node, |kernel, host| {
            if kernel.has_process(host) {
                kernel.set_host_state(host, state);
            }
        });
    }

    fn endpoint(&self, endpoint: Endpoint) -> HostId {
        match endpoint {
            Endpoint::Node(node) => self.cluster.host(node),
            Endpoint::Clients => self.cluster.clients(),
        }
    }

    fn set_link(&self, from: Endpoint, to: Endpoint, state: LinkState) {
        let (from, to) = (self.endpoint(from), self.endpoint(to));
        kernel::with(|kernel| kernel.set_link(from, to, state));
    }

    /// Ends a node before its files are changed.
    fn kill_and_settle(&self, node: usize) {
        kernel::kill(self.cluster.host(node));
        self.on_host(node, |kernel, host| kernel.settle_disk(host));
    }

    /// Changes a bit of some bytes that are not zero: most of the file is unused, or replaced by newer pages.
    fn flip_bits(&self, node: usize, place: u32) -> io::Result<()> {
        self.kill_and_settle(node);
        let path = self.cluster.data_dir(node).join(LOG_FILE);
        let Ok(mut content) = fs::read(&path) else { return Ok(()) };
        let used: Vec<_> = (0..content.len()).filter(|&offset| content[offset] != 0).collect();
        for number in 0..FLIPPED_BITS {
            let place = (place as usize + number * 1_000_000 / FLIPPED_BITS) % 1_000_000;
            if let Some(&offset) = used.get(used.len() * place / 1_000_000) {
                content[offset] ^= 1 << (place % 8);
            }
        }
        fs::write(&path, content)
    }

    /// Copies the files of a node to the place of its copy, or back from there.
    fn copy_files(&self, node: usize, save: bool) -> io::Result<()> {
        self.kill_and_settle(node);
        let data = self.cluster.data_dir(node);
        let copy = data.with_extension("copy");
        let (from, to) = if save { (data, copy) } else { (copy, data) };
        if !from.exists() {
            return Ok(());
        }
        let _ = fs::remove_dir_all(&to);
        copy_folder(&from, &to)
    }

    fn command(&mut self, command: &Command) -> io::Result<()> {
        match *command {
            Command::Join => {
                let node = self.cluster.add_node()?;
                self.cluster.start(node);
                return Ok(());
            }
            Command::Remove { node } => {
                self.removed.insert(node);
            }
            _ => {}
        }
        let nodes = self.cluster.all_ports();
        let names = (0..self.cluster.len()).map(|node| self.cluster.name(node).to_owned());
        let (names, command) = (names.collect(), command.clone());
        self.commands.spawn(async move {
            let result = operator::run(command.clone(), nodes, names).await;
            (command, result)
        });
        Ok(())
    }

    /// Waits until every command has an outcome. A node is removed if its cluster no longer knows it, whatever the answer was.
    pub async fn finish_commands(&mut self) {
        while let Some(ended) = self.commands.join_next().await {
            let Ok((command, result)) = ended else { continue };
            tracing::info!(%command, ?result, "command ended");
        }
        for node in std::mem::take(&mut self.removed) {
            if self.is_removed(node).await {
                self.removed.insert(node);
            }
        }
    }

    /// Whether any of the others no longer knows a node. Some of them may not have heard of the removal yet.
    async fn is_removed(&self, node: usize) -> bool {
        let name = self.cluster.name(node);
        for other in (0..self.cluster.len()).filter(|&other| other != node) {
            let Ok(status) = operator::status_of(self.cluster.ports(other)).await else { continue };
            if !status.members.is_empty() && status.members.iter().all(|member| member.name != name)
            {
                return true;
            }
        }
        false
    }

    /// Starts all members, also those that are still shutting down.
    pub async fn wait_until_started(&self) {
        let begun = Instant::now();
        loop {
            self.start_stopped();
            let mut hosts = (0..self.cluster.len()).map(|node| self.cluster.host(node));
            let is_stopping = hosts.any(|host| kernel::with(|kernel| kernel.is_stopping(host)));
            if !is_stopping || begun.elapsed() > STOP_MAX {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends all faults and starts every node that does not run, with the newest build but for the nodes `not_upgraded`.
    pub fn heal(&mut self, not_upgraded: &BTreeSet<usize>) {
        let keep_build: Vec<_> = not_upgraded.iter().map(|&node| self.cluster.host(node)).collect();
        let hosts: Vec<_> = (0..self.cluster.len())
            .map(|node| self.cluster.host(node))
            .chain([self.cluster.clients()])
            .collect();
        kernel::with(|kernel| {
            for &from in &hosts {
                for &to in &hosts {
                    kernel.set_link(from, to, LinkState::default());
                }
                kernel.set_disk_full(from, false);
                kernel.fail_syncs(from, 0);
                kernel.set_sync_time(from, SimulatedCluster::SYNC_NS);
                kernel.set_drift(from, 0);
                kernel.clear_power_cut(from);
                if !keep_build.contains(&from) {
                    kernel.set_build(from, ClusterVersion::NEWEST.0);
                }
            }
        });
        self.start_stopped();
    }

    /// Starts every member that does not run, and lets all others continue.
    fn start_stopped(&self) {
        for node in 0..self.cluster.len() {
            if self.cluster.is_running(node) {
                self.set_state(node, HostState::Running);
            } else if !self.removed.contains(&node) {
                self.cluster.start(node);
            }
        }
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::write(target, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}
