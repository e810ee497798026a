//! Namespaces go from memory into the log while messages are published to them.

use std::time::Duration;

use tonic::async_trait;

use super::operator::{command, servers};
use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};
use crate::tool::pushonce;

pub(super) const ROW: Row = Row {
    name: "durability-switched",
    story: "a namespace goes from memory to replicated under load; the way back is refused without --force",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Switched { switched: None, left: NAMESPACES.to_vec() }),
};

/// The namespaces of the load. Both are in memory at first.
const NAMESPACES: [&str; 2] = ["game", "hot"];

struct Switched {
    switched: Option<&'static str>,
    left: Vec<&'static str>,
}

#[async_trait(?Send)]
impl Fault for Switched {
    fn hold(&self) -> Duration {
        secs(4)
    }

    fn rounds(&self) -> usize {
        NAMESPACES.len()
    }

    /// The load begins after this.
    async fn prepare(&mut self, stage: &mut Stage) {
        for namespace in NAMESPACES {
            command(stage, &["namespace", "set", namespace, "--durability", "memory"]).await;
        }
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let namespace = self.left.pop().ok_or("every namespace is replicated")?;
        command(stage, &["namespace", "set", namespace, "--durability", "replicated"]).await;
        self.switched = Some(namespace);
        Ok(Effect::on(Vec::new()))
    }

    /// There is something in the log of that namespace once the way back would hide it.
    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        let namespace = self.switched.expect("it was injected");
        tokio::time::sleep(secs(2)).await;
        let servers = servers(stage);
        let back =
            ["namespace", "set", namespace, "--durability", "memory", "--server", &servers[..]];
        let done = pushonce(back, "").await;
        if !done.status.success() && done.err.contains("--force") {
            Confirmed::Installed
        } else {
            Confirmed::Indeterminate(format!("{namespace} may go back: {}{}", done.out, done.err))
        }
    }

    async fn heal(&mut self, _: &mut Stage) {}
}
