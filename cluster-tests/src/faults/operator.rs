//! What operators do to a healthy cluster: other settings, a node that is drained and comes back.

use std::time::Duration;

use rand::Rng as _;
use rand::seq::IteratorRandom as _;
use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Stage, secs};
use crate::tool::pushonce;
use crate::wait::until;

/// The default namespace gets another history, never shorter than the checker counts on.
#[derive(Default)]
pub(crate) struct Settings {
    count: u64,
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
        let change =
            ["--history-count", &count, "--history-bytes", &bytes, "--history-age", &hours];
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
