//! The power of volumes is cut, and the nodes on them are killed.

use std::sync::Arc;
use std::time::Duration;

use tonic::async_trait;

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

#[async_trait(?Send)]
impl Fault for Cut {
    fn hold(&self) -> Duration {
        secs(3)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
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
        Ok(Effect { majority: self.victims == Victims::Owner, ..Effect::restart(nodes) })
    }

    async fn confirm(&mut self, _: &mut Stage) -> Confirmed {
        let written = self.down.iter().find(|&&node| {
            std::fs::write(self.rig.berth(node).path().join("probe"), "power").is_ok()
        });
        match written {
            Some(node) => Confirmed::Skipped(format!("the volume of node {node} has power")),
            None => Confirmed::Installed,
        }
    }

    async fn heal(&mut self, stage: &mut Stage) {
        for node in self.down.drain(..) {
            self.rig.berth(node).restore_power().expect("the volume is mounted again");
            stage.restart(node);
        }
    }
}
