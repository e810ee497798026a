//! The owner sleeps for longer than an election takes, with publishes waiting in its sockets, and
//! wakes.

use std::time::{Duration, Instant};

use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "pause-owner",
    story: "SIGSTOP of the owner of the hot topic for 3 s, and back",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Pause::default()),
};

#[derive(Default)]
pub(super) struct Pause(Option<usize>);

#[async_trait(?Send)]
impl Fault for Pause {
    fn hold(&self) -> Duration {
        secs(3)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let owner = stage.owner().await;
        stage.cluster.node(owner).pause();
        self.0 = Some(owner);
        Ok(Effect { deposed: vec![owner], ..Effect::on(vec![owner]) })
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        let pid = self.0.and_then(|owner| stage.cluster.node(owner).pid());
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

    async fn heal(&mut self, stage: &mut Stage) {
        if let Some(owner) = self.0.take() {
            stage.cluster.node(owner).wake();
        }
    }
}
