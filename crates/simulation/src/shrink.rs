//! Shortens the schedule of a run that fails, while it fails in the same way.
//!
//! A removed step changes everything that is drawn after it, so a shorter schedule may pass although its cause is still
//! in it. Each attempt is therefore a run of its own; what fails is kept.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pushonce_core::FailPoint;

use crate::campaign::run_process;
use crate::plan::RunPlan;
use crate::verdict::Verdict;

/// The settings of a search for a shorter plan.
pub struct Shrinker {
    /// The program that runs one plan.
    pub program: PathBuf,
    /// The file for the plan of each attempt.
    pub file: PathBuf,
    /// The defect that is active in every node.
    pub fail_point: Option<FailPoint>,
    /// The time for all attempts.
    pub limit: Duration,
}

/// The shortest failing plan that was found.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The plan.
    pub plan: RunPlan,
    /// The verdict on it.
    pub verdict: Verdict,
    /// The number of runs.
    pub attempts: u32,
}

impl Shrinker {
    /// Shortens a plan. `None` when it does not fail.
    ///
    /// # Errors
    /// When a process cannot be started or a file cannot be written.
    pub fn shrink(&self, plan: &RunPlan) -> io::Result<Option<Shrunk>> {
        let begun = Instant::now();
        let Some(verdict) = self.attempt(plan)? else { return Ok(None) };
        let mut best = Shrunk { plan: plan.clone(), verdict, attempts: 1 };
        let is_over = || begun.elapsed() > self.limit;
        self.remove_steps(&mut best, &is_over)?;
        self.remove_participants(&mut best, &is_over)?;
        self.remove_steps(&mut best, &is_over)?;
        fs::write(&self.file, best.plan.to_string())?;
        Ok(Some(best))
    }

    /// Removes runs of steps: first half of them at a time, at last each one.
    fn remove_steps(&self, best: &mut Shrunk, is_over: &impl Fn() -> bool) -> io::Result<()> {
        let mut size = best.plan.schedule.steps.len().div_ceil(2);
        while size > 0 {
            let mut start = 0;
            while start < best.plan.schedule.steps.len() && !is_over() {
                let mut shorter = best.plan.clone();
                let steps = &mut shorter.schedule.steps;
                steps.drain(start..(start + size).min(steps.len()));
                if !self.improve(best, shorter)? {
                    start += size;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
        Ok(())
    }

    fn remove_participants(
        &self,
        best: &mut Shrunk,
        is_over: &impl Fn() -> bool,
    ) -> io::Result<()> {
        for name in best.plan.participants() {
            if is_over() {
                break;
            }
            let mut fewer = best.plan.clone();
            if fewer.excluded.insert(name) {
                self.improve(best, fewer)?;
            }
        }
        Ok(())
    }

    /// Keeps a smaller plan if it fails in the same way; returns whether it does.
    fn improve(&self, best: &mut Shrunk, plan: RunPlan) -> io::Result<bool> {
        best.attempts += 1;
        match self.attempt(&plan)? {
            Some(verdict) if is_same(&best.verdict, &verdict) => {
                (best.plan, best.verdict) = (plan, verdict);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Runs a plan; returns the verdict if it fails.
    fn attempt(&self, plan: &RunPlan) -> io::Result<Option<Verdict>> {
        fs::write(&self.file, plan.to_string())?;
        let arguments = ["--plan".to_owned(), self.file.display().to_string()];
        let outcome = run_process(&self.program, &arguments, self.fail_point)?;
        Ok(outcome.ok().filter(|verdict| !verdict.is_pass()))
    }
}

/// Whether two runs violate an invariant in common.
fn is_same(one: &Verdict, other: &Verdict) -> bool {
    let violated = one.violated();
    other.violated().iter().any(|id| violated.contains(id))
}
