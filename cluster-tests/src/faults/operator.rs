//! Changes that operators make in a healthy cluster: namespace settings, consensus times, draining a node.

use std::time::Duration;

use rand::Rng as _;
use rand::seq::IteratorRandom as _;
use tonic::async_trait;

use super::{FaultContext, FaultEffect, FaultInjector, FaultState, secs};
use crate::cli::pushonce;
use crate::wait::wait_until;

/// Changes the history and the limits of the default namespace. The history is never shorter than the
/// checker's guarantee, and the limits are never below what the load needs.
#[derive(Default)]
pub(crate) struct NamespaceSettingsChange {
    history_count: u64,
}

/// Changes the maximum election timeout, and with it the lease of every owner.
#[derive(Default)]
pub(crate) struct ConsensusTimesChange {
    election_max_ms: u32,
}

/// Drains one node and undrains it again.
#[derive(Default)]
pub(crate) struct NodeDrain {
    node: Option<usize>,
}

/// The gRPC addresses of the running nodes.
pub(super) fn grpc_servers(context: &FaultContext) -> String {
    let running = context.cluster.running_nodes();
    let servers = running.map(|i| format!("http://{}", context.cluster.ports(i).grpc));
    servers.collect::<Vec<_>>().join(",")
}

/// Repeats an operator's command until it succeeds.
pub(super) async fn run_until_success(context: &FaultContext, args: &[&str]) {
    let servers = grpc_servers(context);
    wait_until(&args.join(" "), secs(60), async || {
        let output = pushonce(args.iter().copied().chain(["--server", &servers]), "").await;
        if output.status.success() { Ok(()) } else { Err(output.stderr) }
    })
    .await;
}

#[async_trait(?Send)]
impl FaultInjector for NamespaceSettingsChange {
    fn duration(&self) -> Duration {
        secs(1)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        self.history_count = context.rng.random_range(1_000..20_000);
        let hours = format!("{}h", context.rng.random_range(1..48));
        let (count, bytes) = (self.history_count.to_string(), (16_u64 << 20).to_string());
        let payload = context.rng.random_range(60_000..=65_536).to_string();
        let topics = context.rng.random_range(100_000..2_000_000).to_string();
        let history =
            ["--history-count", &count, "--history-bytes", &bytes, "--history-age", &hours];
        let bounds = ["--payload-max", &payload, "--topics-max", &topics];
        let flags = [&history[..], &bounds[..]].concat();
        run_until_success(context, &[&["namespace", "set", "--default"], &flags[..]].concat())
            .await;
        Ok(FaultEffect::on_nodes(Vec::new()))
    }

    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        let servers = grpc_servers(context);
        let output = pushonce(["namespace", "list", "--json", "--server", &servers], "").await;
        let expected = format!("\"count\":{}", self.history_count);
        if output.stdout.contains(&expected) {
            FaultState::Active
        } else {
            FaultState::Indeterminate(format!(
                "{expected} is not in {} {}",
                output.stdout, output.stderr
            ))
        }
    }

    async fn heal(&mut self, _: &mut FaultContext) {}
}

#[async_trait(?Send)]
impl FaultInjector for ConsensusTimesChange {
    fn duration(&self) -> Duration {
        secs(1)
    }

    /// The change is decided at once, and takes effect when every member has acknowledged it. A member that
    /// is down acknowledges it after its restart.
    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        self.election_max_ms = context.rng.random_range(800..1_000);
        let election_max = format!("{}ms", self.election_max_ms);
        let change = ["cluster", "set-times", "lan", "--election-max", &election_max];
        let output =
            pushonce([&change[..], &["--server", &grpc_servers(context)]].concat(), "").await;
        // An error means that the previous change is still in progress.
        if output.status.success() {
            Ok(FaultEffect::on_nodes(Vec::new()))
        } else {
            Err(output.stderr)
        }
    }

    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        // A paused node counts as running and does not answer.
        let mut status = None;
        for node in context.cluster.running_nodes() {
            let answer = tokio::time::timeout(secs(3), context.cluster.status(node)).await;
            status = status.or(answer.ok().and_then(Result::ok));
        }
        let Some(status) = status else {
            return FaultState::Indeterminate("no node answers".to_owned());
        };
        let times = status.times.unwrap_or_default();
        let expected = Some(self.election_max_ms);
        let election_max =
            [times.current, times.next].map(|times| times.map(|times| times.election_max));
        match election_max.contains(&expected) {
            true => FaultState::Active,
            false => FaultState::Indeterminate(format!("{expected:?} is not in {times:?}")),
        }
    }

    async fn heal(&mut self, _: &mut FaultContext) {}
}

#[async_trait(?Send)]
impl FaultInjector for NodeDrain {
    fn duration(&self) -> Duration {
        secs(3)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let owner = context.hot_topic_owner().await;
        let others = context.cluster.running_nodes().filter(|&node| node != owner);
        let node = others.choose(&mut context.rng).ok_or("no other node runs")?;
        let name = context.cluster.node(node).name.clone();
        run_until_success(context, &["cluster", "drain", &name]).await;
        self.node = Some(node);
        Ok(FaultEffect::on_nodes(vec![node]))
    }

    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        let Some(node) = self.node else {
            return FaultState::NotActive("no node is draining".to_owned());
        };
        let name = &context.cluster.node(node).name;
        let queried = context.cluster.running_nodes().find(|&other| other != node).unwrap_or(node);
        let status = match context.cluster.status(queried).await {
            Ok(status) => status,
            Err(error) => return FaultState::Indeterminate(error),
        };
        match status.members.iter().find(|member| member.name == *name) {
            Some(member) if member.state == "draining" => FaultState::Active,
            member => FaultState::Indeterminate(format!("{name} is not draining: {member:?}")),
        }
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        if let Some(node) = self.node.take() {
            let name = context.cluster.node(node).name.clone();
            run_until_success(context, &["cluster", "undrain", &name]).await;
        }
    }
}
