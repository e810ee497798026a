//! What operators do to a healthy cluster: other settings, other times of consensus, a node that is drained
//! and comes back.

use std::time::Duration;

use rand::Rng as _;
use rand::seq::IteratorRandom as _;
use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Stage, secs};
use crate::tool::pushonce;
use crate::wait::until;

/// The default namespace gets another history, never shorter than the checker counts on, and other bounds,
/// never below what the load needs.
#[derive(Default)]
pub(crate) struct Settings {
    count: u64,
}

/// The longest election, and with it the lease of every owner, becomes longer or shorter.
#[derive(Default)]
pub(crate) struct Times {
    election_max_ms: u32,
}

/// One node gives its shards away and takes them back.
#[derive(Default)]
pub(crate) struct Drain {
    node: Option<usize>,
}

/// The gRPC addresses of the nodes that run.
pub(super) fn servers(stage: &Stage) -> String {
    let running = stage.cluster.running();
    let servers = running.map(|i| format!("http://{}", stage.cluster.ports(i).grpc));
    servers.collect::<Vec<_>>().join(",")
}

/// Runs a command of an operator until it succeeds.
pub(super) async fn command(stage: &Stage, args: &[&str]) {
    let servers = servers(stage);
    until(&args.join(" "), secs(60), async || {
        let done = pushonce(args.iter().copied().chain(["--server", &servers]), "").await;
        if done.status.success() { Ok(()) } else { Err(done.err) }
    })
    .await;
}

#[async_trait(?Send)]
impl Fault for Settings {
    fn hold(&self) -> Duration {
        secs(1)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        self.count = stage.rng.random_range(1_000..20_000);
        let hours = format!("{}h", stage.rng.random_range(1..48));
        let (count, bytes) = (self.count.to_string(), (16_u64 << 20).to_string());
        let payload = stage.rng.random_range(60_000..=65_536).to_string();
        let topics = stage.rng.random_range(100_000..2_000_000).to_string();
        let history =
            ["--history-count", &count, "--history-bytes", &bytes, "--history-age", &hours];
        let bounds = ["--payload-max", &payload, "--topics-max", &topics];
        let change = [&history[..], &bounds[..]].concat();
        command(stage, &[&["namespace", "set", "--default"], &change[..]].concat()).await;
        Ok(Effect::on(Vec::new()))
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        let servers = servers(stage);
        let done = pushonce(["namespace", "list", "--json", "--server", &servers], "").await;
        let wanted = format!("\"count\":{}", self.count);
        if done.out.contains(&wanted) {
            Confirmed::Installed
        } else {
            Confirmed::Indeterminate(format!("{wanted} is not in {} {}", done.out, done.err))
        }
    }

    async fn heal(&mut self, _: &mut Stage) {}
}

#[async_trait(?Send)]
impl Fault for Times {
    fn hold(&self) -> Duration {
        secs(1)
    }

    /// Decided at once, and carried out when every member has acknowledged it: one that is out meanwhile
    /// does so when it is back.
    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        self.election_max_ms = stage.rng.random_range(800..1_000);
        let longest = format!("{}ms", self.election_max_ms);
        let change = ["cluster", "set-times", "lan", "--election-max", &longest];
        let done = pushonce([&change[..], &["--server", &servers(stage)]].concat(), "").await;
        // The change before is still under way.
        if done.status.success() { Ok(Effect::on(Vec::new())) } else { Err(done.err) }
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        // A node that is paused answers nothing, and runs all the same.
        let mut status = None;
        for node in stage.cluster.running() {
            let answer = tokio::time::timeout(secs(3), stage.cluster.status(node)).await;
            status = status.or(answer.ok().and_then(Result::ok));
        }
        let Some(status) = status else {
            return Confirmed::Indeterminate("no node answers".to_owned());
        };
        let times = status.times.unwrap_or_default();
        let wanted = Some(self.election_max_ms);
        let agreed = [times.current, times.next].map(|times| times.map(|it| it.election_max));
        match agreed.contains(&wanted) {
            true => Confirmed::Installed,
            false => Confirmed::Indeterminate(format!("{wanted:?} is not in {times:?}")),
        }
    }

    async fn heal(&mut self, _: &mut Stage) {}
}

#[async_trait(?Send)]
impl Fault for Drain {
    fn hold(&self) -> Duration {
        secs(3)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let owner = stage.owner().await;
        let others = stage.cluster.running().filter(|&node| node != owner);
        let node = others.choose(&mut stage.rng).ok_or("it is alone")?;
        let name = stage.cluster.node(node).name.clone();
        command(stage, &["cluster", "drain", &name]).await;
        self.node = Some(node);
        Ok(Effect::on(vec![node]))
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        let Some(node) = self.node else { return Confirmed::Skipped("nobody drains".to_owned()) };
        let name = &stage.cluster.node(node).name;
        let asked = stage.cluster.running().find(|&asked| asked != node).unwrap_or(node);
        let status = match stage.cluster.status(asked).await {
            Ok(status) => status,
            Err(why) => return Confirmed::Indeterminate(why),
        };
        match status.members.iter().find(|member| member.name == *name) {
            Some(member) if member.state == "draining" => Confirmed::Installed,
            member => Confirmed::Indeterminate(format!("{name} is not draining: {member:?}")),
        }
    }

    async fn heal(&mut self, stage: &mut Stage) {
        if let Some(node) = self.node.take() {
            let name = stage.cluster.node(node).name.clone();
            command(stage, &["cluster", "undrain", &name]).await;
        }
    }
}
