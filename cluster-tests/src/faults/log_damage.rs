//! A node's log file is damaged between its kill and its restart: flipped bits, or a truncated tail.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, on_loopback, secs,
};
use crate::history::HistoryEvent;

pub(super) const BIT_FLIPS: FaultScenario = FaultScenario {
    name: "log-bit-flips",
    description: "64 bits of a killed node's log file are flipped before it restarts",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(LogDamage::new(flip_bits)),
};

pub(super) const TRUNCATED_TAIL: FaultScenario = FaultScenario {
    name: "log-truncated-tail",
    description: "the end of a killed node's log file is truncated before it restarts",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(LogDamage::new(truncate_tail)),
};

/// The name of the log file.
pub(crate) const LOG_FILE: &str = "raft.redb";

type DamageFn = fn(&File, &mut StdRng) -> io::Result<String>;

struct LogDamage {
    damage_fn: DamageFn,
    victim: Option<usize>,
    result: Result<String, String>,
}

impl LogDamage {
    fn new(damage_fn: DamageFn) -> LogDamage {
        LogDamage { damage_fn, victim: None, result: Err("the fault was not injected".to_owned()) }
    }
}

fn flip_bits(file: &File, rng: &mut StdRng) -> io::Result<String> {
    let len = file.metadata()?.len();
    for _ in 0..64 {
        let (at, bit) = (rng.random_range(0..len), rng.random_range(0..8));
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ (1 << bit)], at)?;
    }
    Ok(format!("64 bits of {len} bytes were flipped"))
}

fn truncate_tail(file: &File, rng: &mut StdRng) -> io::Result<String> {
    let len = file.metadata()?.len();
    let new_len = len - rng.random_range(1..=len / 8);
    file.set_len(new_len)?;
    Ok(format!("{len} bytes were cut to {new_len}"))
}

#[async_trait(?Send)]
impl FaultInjector for LogDamage {
    fn duration(&self) -> Duration {
        secs(5)
    }

    /// A node that does not start any more is replaced. A second replacement would leave no majority.
    fn rounds_max(&self) -> usize {
        1
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let victim = context.hot_topic_owner().await;
        context.cluster.kill(victim);
        self.victim = Some(victim);
        let path: PathBuf = context.cluster.node(victim).data_dir().join(LOG_FILE);
        let file = File::options().read(true).write(true).open(&path);
        let result = file.and_then(|file| (self.damage_fn)(&file, &mut context.rng));
        self.result = result.map_err(|error| format!("{}: {error}", path.display()));
        context.cluster.restart(victim);
        Ok(FaultEffect { damaged: vec![victim], ..FaultEffect::restart(vec![victim]) })
    }

    async fn confirm(&mut self, _: &mut FaultContext) -> FaultState {
        match &self.result {
            Ok(_) => FaultState::Active,
            Err(error) => FaultState::NotActive(error.clone()),
        }
    }

    /// Replaces a node that detected the damage and exited. Its log may have been written since an older copy
    /// of the file was made, so no copy may come back.
    async fn heal(&mut self, context: &mut FaultContext) {
        let victim = self.victim.expect("the fault was injected");
        if context.cluster.node_mut(victim).has_exited() {
            let log = context.cluster.node(victim).log_text();
            let last_log_line = log.lines().last().unwrap_or_default().into();
            context
                .process_recorder
                .record(HistoryEvent::DamagedNodeExited { node: victim, last_log_line });
            context.replace_node(victim).await;
        }
    }
}
