//! The owner sleeps for longer than an election takes, with publishes waiting in its sockets, and
//! wakes.

use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "pause-owner",
    story: "SIGSTOP of the owner of the hot topic for 3 s, and back",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Pause(None)),
};

struct Pause(Option<usize>);

impl Fault for Pause {
    fn hold(&self) -> Duration {
        secs(3)
    }

    fn inject<'a>(
        &'a mut self,
        stage: &'a mut Stage,
    ) -> LocalBoxFuture<'a, Result<Effect, String>> {
        async {
            let owner = stage.owner().await;
            stage.cluster.node(owner).pause();
            self.0 = Some(owner);
            let nodes = vec![owner];
            Ok(Effect { deposed: nodes.clone(), nodes, majority: true, ..Effect::default() })
        }
        .boxed_local()
    }

    fn confirm<'a>(&'a mut self, stage: &'a mut Stage) -> LocalBoxFuture<'a, Confirmed> {
        let pid = self.0.and_then(|owner| stage.cluster.node(owner).pid());
        async move {
            let Some(pid) = pid else { return Confirmed::Skipped("no process".to_owned()) };
            let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
            let begun = Instant::now();
            // A signal takes its time to reach a process that waits for a processor.
            loop {
                let text = std::fs::read_to_string(&stat).unwrap_or_default();
                // pid (name) state …
                match text.rsplit(") ").next().and_then(|rest| rest.chars().next()) {
                    Some('T') => return Confirmed::Installed,
                    state if begun.elapsed() > secs(2) => {
                        return Confirmed::Indeterminate(format!("it is in state {state:?}"));
                    }
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        }
        .boxed_local()
    }

    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> LocalBoxFuture<'a, ()> {
        async {
            if let Some(owner) = self.0.take() {
                stage.cluster.node(owner).wake();
            }
        }
        .boxed_local()
    }
}
