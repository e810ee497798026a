//! Decides when the next message is due.
//!
//! In a closed loop a message is due as soon as there is room. In an open loop it is due by the clock,
//! however slowly the cluster answers, and its latency counts from that time: a generator that waits for a
//! stalled server would omit the very requests that had to wait (coordinated omission).

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// Maximum number of due messages that no worker has taken. When it is reached the schedule waits; delays
/// still count, because the queue holds the times at which the messages were due.
const DUE_QUEUE_MAX: usize = 1_024;

/// The times at which the messages of an open loop are due.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArrivalSchedule {
    start: Instant,
    /// Messages per second.
    rate_per_second: f64,
}

/// The source of a worker's due times. Clones of an open pacer share one schedule.
pub(super) enum LoadPacer {
    /// Every message is due at once.
    ClosedLoop,
    /// Messages are due by the clock.
    OpenLoop(mpsc::Receiver<Instant>),
}

impl ArrivalSchedule {
    /// A schedule whose first message is due at `start`.
    pub(super) fn new(start: Instant, rate_per_second: f64) -> ArrivalSchedule {
        ArrivalSchedule { start, rate_per_second }
    }

    /// Computed from the start for each message: a sum of intervals would drift.
    fn due_at(&self, index: u64) -> Instant {
        self.start + Duration::from_secs_f64(index as f64 / self.rate_per_second)
    }
}

impl LoadPacer {
    /// Sends the due times of `schedule` from a thread of its own, because the timer of the runtime has a
    /// resolution of one millisecond. The thread ends after the receiver is dropped.
    pub(super) fn open_loop(schedule: ArrivalSchedule) -> LoadPacer {
        let (sender, receiver) = mpsc::channel(DUE_QUEUE_MAX);
        std::thread::spawn(move || {
            for index in 0.. {
                let due_at = schedule.due_at(index);
                std::thread::sleep(due_at.saturating_duration_since(Instant::now()));
                if sender.blocking_send(due_at).is_err() {
                    return;
                }
            }
        });
        LoadPacer::OpenLoop(receiver)
    }

    /// Waits until the next message is due, and returns the time at which it was due. Cancel-safe.
    pub(super) async fn next_due(&mut self) -> Instant {
        match self {
            LoadPacer::ClosedLoop => Instant::now(),
            LoadPacer::OpenLoop(receiver) => match receiver.recv().await {
                Some(due_at) => due_at,
                // The thread sends for as long as this receiver exists.
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
        let start = Instant::now();
        let schedule = ArrivalSchedule::new(start, 3.0);
        assert_eq!(schedule.due_at(0), start);
        assert_eq!(schedule.due_at(3), start + Duration::from_secs(1));
        assert_eq!(schedule.due_at(30_000), start + Duration::from_secs(10_000));
    }

    #[tokio::test]
    async fn late_worker_gets_the_overdue_times() {
        let start = Instant::now() - Duration::from_secs(1);
        let mut pace = LoadPacer::open_loop(ArrivalSchedule::new(start, 1_000.0));
        for nth in 0..1_000 {
            assert_eq!(pace.next_due().await, start + Duration::from_millis(nth));
        }
    }

    #[tokio::test]
    async fn closed_loop_is_due_immediately() {
        let before = Instant::now();
        assert!(LoadPacer::ClosedLoop.next_due().await >= before);
    }
}
