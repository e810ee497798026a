//! The file of a node's log is damaged between its death and its start: flipped bits, a torn tail.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};
use crate::history::Event;

pub(super) const FLIPPED: Row = Row {
    name: "flipped-bits",
    story: "64 bits of a dead node's log file are flipped before it starts again",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Damage::of(flip)),
};

pub(super) const TORN: Row = Row {
    name: "torn-tail",
    story: "the end of a dead node's log file is cut off before it starts again",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Damage::of(tear)),
};

/// What is damaged.
pub(crate) const STORE: &str = "raft.redb";

type Harm = fn(&File, &mut StdRng) -> io::Result<String>;

struct Damage {
    harm: Harm,
    victim: Option<usize>,
    done: Result<String, String>,
}

impl Damage {
    fn of(harm: Harm) -> Damage {
        Damage { harm, victim: None, done: Err("not yet".to_owned()) }
    }
}

fn flip(file: &File, rng: &mut StdRng) -> io::Result<String> {
    let len = file.metadata()?.len();
    for _ in 0..64 {
        let (at, bit) = (rng.random_range(0..len), rng.random_range(0..8));
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ (1 << bit)], at)?;
    }
    Ok(format!("64 bits of {len} bytes were flipped"))
}

fn tear(file: &File, rng: &mut StdRng) -> io::Result<String> {
    let len = file.metadata()?.len();
    let torn = len - rng.random_range(1..=len / 8);
    file.set_len(torn)?;
    Ok(format!("{len} bytes were cut to {torn}"))
}

#[async_trait(?Send)]
impl Fault for Damage {
    fn hold(&self) -> Duration {
        secs(5)
    }

    /// A node that does not start any more is replaced; a second would leave no majority.
    fn rounds(&self) -> usize {
        1
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let victim = stage.owner().await;
        stage.cluster.kill(victim);
        self.victim = Some(victim);
        let path: PathBuf = stage.cluster.node(victim).data().join(STORE);
        let file = File::options().read(true).write(true).open(&path);
        let done = file.and_then(|file| (self.harm)(&file, &mut stage.rng));
        self.done = done.map_err(|why| format!("{}: {why}", path.display()));
        stage.cluster.restart(victim);
        Ok(Effect { damaged: vec![victim], ..Effect::restart(vec![victim]) })
    }

    async fn confirm(&mut self, _: &mut Stage) -> Confirmed {
        match &self.done {
            Ok(_) => Confirmed::Installed,
            Err(why) => Confirmed::Skipped(why.clone()),
        }
    }

    /// A node that noticed and ended stays away, and a new one takes its place: its file may have
    /// been written since, so an older copy must not come back.
    async fn heal(&mut self, stage: &mut Stage) {
        let victim = self.victim.expect("it was injected");
        if stage.cluster.node_mut(victim).has_ended() {
            let log = stage.cluster.node(victim).log();
            let said = log.lines().last().unwrap_or_default().into();
            stage.scribe.write(Event::Noticed { node: victim, said });
            stage.replace(victim).await;
        }
    }
}
