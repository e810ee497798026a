//! The power of volumes is cut, and the nodes on them are killed.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::super::Rig;
use crate::faults::{Confirmed, Effect, Fault, Stage};
use crate::wait::secs;

/// A power cut.
pub(super) struct Cut {
    rig: Arc<Rig>,
    victims: Victims,
    /// Who is without power.
    down: Vec<usize>,
}

/// Whose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Victims {
    Owner,
    All,
}

impl Cut {
    pub(super) fn new(rig: Arc<Rig>, victims: Victims) -> Cut {
        Cut { rig, victims, down: Vec::new() }
    }
}

impl Fault for Cut {
    fn hold(&self) -> Duration {
        secs(3)
    }

    fn inject<'a>(
        &'a mut self,
        stage: &'a mut Stage,
    ) -> LocalBoxFuture<'a, Result<Effect, String>> {
        async move {
            let nodes = match self.victims {
                Victims::Owner => vec![stage.owner().await],
                Victims::All => stage.cluster.running().collect(),
            };
            // First all the power, then the processes: nobody sees another one die.
            for &node in &nodes {
                self.rig.berth(node).cut_power()?;
                self.down.push(node);
            }
            nodes.iter().for_each(|&node| stage.cluster.kill(node));
            let majority = self.victims == Victims::Owner;
            Ok(Effect { nodes, majority, ..Effect::default() })
        }
        .boxed_local()
    }

    fn confirm<'a>(&'a mut self, _: &'a mut Stage) -> LocalBoxFuture<'a, Confirmed> {
        let written = self.down.iter().find(|&&node| {
            std::fs::write(self.rig.berth(node).path().join("probe"), "power").is_ok()
        });
        let confirmed = match written {
            Some(node) => Confirmed::Skipped(format!("the volume of node {node} has power")),
            None => Confirmed::Installed,
        };
        std::future::ready(confirmed).boxed_local()
    }

    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> LocalBoxFuture<'a, ()> {
        async move {
            for node in self.down.drain(..) {
                self.rig.berth(node).restore_power().expect("the volume is mounted again");
                if !stage.cluster.node(node).runs() {
                    stage.cluster.restart(node);
                }
            }
        }
        .boxed_local()
    }
}
