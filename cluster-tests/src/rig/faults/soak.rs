//! Several faults and operator commands at once, drawn at random.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use rand::{Rng as _, SeedableRng as _};
use tonic::async_trait;

use super::super::Rig;
use super::partition::{Cuts, Shape};
use super::{clock, disk, links, power};
use crate::faults::{
    Confirmed, Effect, Fault, Stage, every_node_restarts, kill_leader, kill_owner,
};
use crate::faults::{operator, pause_owner};
use crate::wait::secs;

/// Each round draws a change of settings, conditions that a cluster must bear beside others, what else an
/// operator does, and one fault that takes a node out. So at most a minority of the nodes is out at any
/// time, and publishing goes on.
pub(super) struct Soak {
    rig: Arc<Rig>,
    /// Draws the rounds, and nothing else: a fault that takes another way does not change the next round.
    rng: StdRng,
    drawn: Vec<(&'static str, Box<dyn Fault>)>,
    hold: Duration,
}

type Make = fn(&Arc<Rig>) -> Box<dyn Fault>;

/// A bad link and a partition are both settings of the links: one of them at a time.
const LINKS: &[(&str, Make)] = &[
    ("loss", |rig| Box::new(links::Bad::new(rig.clone(), links::lossy()))),
    ("delay", |rig| Box::new(links::Bad::new(rig.clone(), links::slow()))),
    ("minority", |rig| Box::new(Cuts::new(rig.clone(), Shape::OwnerAlone))),
    ("majority", |rig| Box::new(Cuts::new(rig.clone(), Shape::OtherAlone))),
    ("deaf", |rig| Box::new(Cuts::new(rig.clone(), Shape::OwnerDeaf))),
    ("mute", |rig| Box::new(Cuts::new(rig.clone(), Shape::OwnerMute))),
    ("peer-port", |rig| Box::new(Cuts::new(rig.clone(), Shape::PeerPort))),
    ("partial", |rig| Box::new(Cuts::new(rig.clone(), Shape::Partial))),
];

const CONDITIONS: &[(&str, Make)] = &[
    ("clock", |rig| Box::new(clock::Step::new(rig.clone()))),
    ("slow-fsync", |rig| Box::new(disk::SlowFsync::new(rig.clone()))),
];

const SETTINGS: &[(&str, Make)] = &[
    ("settings", |_| Box::new(operator::Settings::default())),
    ("times", |_| Box::new(operator::Times::default())),
];

const OPERATOR: &[(&str, Make)] = &[
    ("drain", |_| Box::new(operator::Drain::default())),
    ("rolling-restart", |_| every_node_restarts(false)),
    ("rolling-restart-sigterm", |_| every_node_restarts(true)),
];

const NODE_OUT: &[(&str, Make)] = &[
    ("kill-owner", |_| kill_owner()),
    ("kill-leader", |_| kill_leader()),
    ("pause-owner", |_| pause_owner()),
    ("power-one", |rig| Box::new(power::Cut::new(rig.clone(), power::Victims::Owner))),
    ("fsync-error", |rig| Box::new(disk::FsyncError::new(rig.clone()))),
];

impl Soak {
    pub(super) fn new(rig: Arc<Rig>, seed: u64) -> Soak {
        let rng = StdRng::seed_from_u64(seed);
        Soak { rig, rng, drawn: Vec::new(), hold: Duration::ZERO }
    }

    /// What cuts a node off and what takes one out are not drawn together: they would be two.
    fn draw(&mut self) {
        let rng = &mut self.rng;
        let mut chosen: Vec<&(&'static str, Make)> = Vec::new();
        chosen.extend(CONDITIONS.iter().filter(|_| rng.random_bool(0.4)));
        let out = if rng.random() { LINKS } else { NODE_OUT };
        // An operator waits for the end of a command before the network breaks, at most.
        chosen.extend(SETTINGS.choose(rng));
        if rng.random_bool(0.4) {
            chosen.extend(OPERATOR.choose(rng));
        }
        chosen.extend(out.iter().choose(rng));
        self.hold = secs(rng.random_range(2..9));
        self.drawn = chosen.into_iter().map(|(name, make)| (*name, make(&self.rig))).collect();
    }
}

#[async_trait(?Send)]
impl Fault for Soak {
    fn hold(&self) -> Duration {
        self.hold
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        self.draw();
        let mut all = Effect::on(Vec::new());
        let mut done = Vec::new();
        for (name, mut fault) in std::mem::take(&mut self.drawn) {
            match fault.inject(stage).await {
                Ok(effect) => {
                    all = all.and(effect);
                    done.push((name, fault));
                }
                // What was done to the cluster already is healed with the rest.
                Err(why) => stage.note(&format!("{name} did not take place: {why}")),
            }
        }
        let names: Vec<_> = done.iter().map(|(name, _)| *name).collect();
        stage.note(&format!("drawn: {}", names.join(", ")));
        self.drawn = done;
        if self.drawn.is_empty() { Err("nothing took place".to_owned()) } else { Ok(all) }
    }

    /// There when all of it is there.
    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        for (name, fault) in &mut self.drawn {
            match fault.confirm(stage).await {
                Confirmed::Installed => {}
                Confirmed::Skipped(why) => return Confirmed::Skipped(format!("{name}: {why}")),
                Confirmed::Indeterminate(why) => {
                    return Confirmed::Indeterminate(format!("{name}: {why}"));
                }
            }
        }
        Confirmed::Installed
    }

    async fn heal(&mut self, stage: &mut Stage) {
        while let Some((_, mut fault)) = self.drawn.pop() {
            fault.heal(stage).await;
        }
    }
}
