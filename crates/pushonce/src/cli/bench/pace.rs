//! When the next message is due.
//!
//! In a closed loop it is due as soon as there is room. In an open loop it is due by the clock,
//! however slowly the cluster answers, and its latency counts from that moment: a generator that
//! waits for a stalled server would leave out just those who had to wait (coordinated omission).

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// Messages that are due and not yet taken. Full, the schedule waits, and what is late then counts
/// as late: moments are given, not the times at which they were reached.
const DUE_MAX: usize = 1_024;

/// When each message of an open loop is meant to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    begun: Instant,
    /// Messages a second.
    rate: f64,
}

/// Where a worker gets its moments from. Clones of an open pace share it.
pub(super) enum Pace {
    /// Now, always.
    Closed,
    /// By the clock.
    Open(mpsc::Receiver<Instant>),
}

impl Schedule {
    /// The first message is due at `begun`.
    pub(super) fn new(begun: Instant, rate: f64) -> Schedule {
        Schedule { begun, rate }
    }

    /// Computed anew for each message: a sum of intervals would drift.
    fn due(&self, nth: u64) -> Instant {
        self.begun + Duration::from_secs_f64(nth as f64 / self.rate)
    }
}

impl Pace {
    /// Moments by `schedule`, out of a thread of its own: a timer of the runtime is a millisecond
    /// coarse. The thread ends after the receiver has.
    pub(super) fn open(schedule: Schedule) -> Pace {
        let (send, due) = mpsc::channel(DUE_MAX);
        std::thread::spawn(move || {
            for nth in 0.. {
                let moment = schedule.due(nth);
                std::thread::sleep(moment.saturating_duration_since(Instant::now()));
                if send.blocking_send(moment).is_err() {
                    return;
                }
            }
        });
        Pace::Open(due)
    }

    /// The moment at which the next message is meant to go, when that has come. May be dropped and
    /// called again.
    pub(super) async fn next(&mut self) -> Instant {
        match self {
            Pace::Closed => Instant::now(),
            Pace::Open(due) => match due.recv().await {
                Some(moment) => moment,
                // The thread sends for as long as this receiver is there.
                None => std::future::pending().await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_does_not_drift() {
        let begun = Instant::now();
        let schedule = Schedule::new(begun, 3.0);
        assert_eq!(schedule.due(0), begun);
        assert_eq!(schedule.due(3), begun + Duration::from_secs(1));
        assert_eq!(schedule.due(30_000), begun + Duration::from_secs(10_000));
    }

    #[tokio::test]
    async fn who_comes_late_gets_the_moments_that_have_passed() {
        let begun = Instant::now() - Duration::from_secs(1);
        let mut pace = Pace::open(Schedule::new(begun, 1_000.0));
        for nth in 0..1_000 {
            assert_eq!(pace.next().await, begun + Duration::from_millis(nth));
        }
    }

    #[tokio::test]
    async fn a_closed_loop_is_always_due() {
        let before = Instant::now();
        assert!(Pace::Closed.next().await >= before);
    }
}
