//! How long a silent client is borne, counted in heartbeats. No clock: each beat is an input.

use crate::{IDLE_INTERVALS, STUCK_INTERVALS};

/// What is known of one session since its last beat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vitals {
    /// Something was read from it.
    pub(crate) heard: bool,
    /// It waits to be written to.
    pub(crate) blocked: bool,
    /// Some byte of what is written was taken.
    pub(crate) progressed: bool,
}

/// The count of one session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pulse {
    quiet: u8,
    stuck: u8,
}

/// What a beat asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send the heartbeat.
    Beat,
    /// Send the heartbeat, and ask whether somebody is there.
    Ask,
    /// It takes nothing: what is sent would only pile up.
    Wait,
    /// Nobody is there.
    Idle,
    /// Somebody is there and does not read.
    Slow,
}

impl Pulse {
    /// One interval has passed.
    pub(crate) fn beat(&mut self, vitals: Vitals) -> Verdict {
        self.quiet = if vitals.heard { 0 } else { self.quiet.saturating_add(1) };
        let stuck = vitals.blocked && !vitals.progressed;
        self.stuck = if stuck { self.stuck.saturating_add(1) } else { 0 };
        if self.stuck >= STUCK_INTERVALS {
            Verdict::Slow
        } else if self.quiet >= IDLE_INTERVALS {
            Verdict::Idle
        } else if vitals.blocked {
            Verdict::Wait
        } else if self.quiet > 0 {
            Verdict::Ask
        } else {
            Verdict::Beat
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARD: Vitals = Vitals { heard: true, blocked: false, progressed: false };
    const SILENT: Vitals = Vitals { heard: false, blocked: false, progressed: false };

    #[test]
    fn a_silent_client_is_asked_before_it_is_let_go() {
        let mut pulse = Pulse::default();
        let verdicts = [HEARD, SILENT, SILENT, SILENT].map(|vitals| pulse.beat(vitals));
        assert_eq!(verdicts, [Verdict::Beat, Verdict::Ask, Verdict::Ask, Verdict::Idle]);
    }

    #[test]
    fn one_answer_begins_the_count_anew() {
        let mut pulse = Pulse::default();
        let verdicts = [SILENT, SILENT, HEARD, SILENT].map(|vitals| pulse.beat(vitals));
        assert_eq!(verdicts, [Verdict::Ask, Verdict::Ask, Verdict::Beat, Verdict::Ask]);
    }

    #[test]
    fn a_client_that_takes_nothing_is_slow_and_one_that_takes_little_is_not() {
        let stuck = Vitals { heard: true, blocked: true, progressed: false };
        let slow = Vitals { progressed: true, ..stuck };
        let mut pulse = Pulse::default();
        let verdicts = [stuck, slow, stuck, stuck].map(|vitals| pulse.beat(vitals));
        assert_eq!(verdicts, [Verdict::Wait, Verdict::Wait, Verdict::Wait, Verdict::Slow]);
    }
}
