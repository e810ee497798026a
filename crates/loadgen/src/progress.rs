//! A progress line on standard error: on a terminal it is overwritten, otherwise printed every second.

use std::io::Write as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitOutcome {
    /// The condition was met.
    Done,
    /// The time was over.
    TimedOut,
    /// The bench was interrupted.
    Interrupted,
}

/// Computes the rate of a growing count.
pub(super) struct RateMeter {
    last_read_at: Instant,
    last_count: u64,
}

/// Waits until `done`, for at most `span`, and prints the progress text every second.
pub(super) async fn wait_with_progress(
    timeout: Duration,
    shutdown: &CancellationToken,
    mut is_done: impl FnMut() -> bool,
    mut progress_text: impl FnMut() -> String,
) -> WaitOutcome {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    let deadline = Instant::now() + timeout;
    let mut poll_timer = tokio::time::interval(POLL_INTERVAL);
    poll_timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_report = Instant::now();
    let outcome = loop {
        tokio::select! {
            _ = poll_timer.tick() => {}
            () = tokio::time::sleep_until(deadline.into()) => break WaitOutcome::TimedOut,
            () = shutdown.cancelled() => break WaitOutcome::Interrupted,
        }
        if is_done() {
            break WaitOutcome::Done;
        }
        if last_report.elapsed() >= REPORT_INTERVAL {
            last_report += REPORT_INTERVAL;
            show_progress(&bar, progress_text());
        }
    };
    bar.finish_and_clear();
    outcome
}

/// Interval at which the end of the wait is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

const REPORT_INTERVAL: Duration = Duration::from_secs(1);

impl RateMeter {
    pub(super) fn new(start: Instant) -> RateMeter {
        RateMeter { last_read_at: start, last_count: 0 }
    }

    /// The increase per second since the previous call.
    pub(super) fn per_second(&mut self, count: u64, now: Instant) -> f64 {
        let (elapsed, added) = (
            now.saturating_duration_since(self.last_read_at),
            count.saturating_sub(self.last_count),
        );
        (self.last_read_at, self.last_count) = (now, count);
        added as f64 / elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

fn show_progress(bar: &ProgressBar, text: String) {
    if bar.is_hidden() {
        print_line(&text);
    } else {
        bar.set_message(text);
        bar.tick();
    }
}

/// Prints a line on standard error. `eprintln!` would panic when it is closed; the result does not depend on it.
pub(super) fn print_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wait_ends_when_done_timed_out_or_interrupted() {
        let (hour, shutdown) = (Duration::from_secs(3_600), CancellationToken::new());
        let done = wait_with_progress(hour, &shutdown, || true, String::new).await;
        let timed_out =
            wait_with_progress(Duration::from_millis(1), &shutdown, || false, String::new).await;
        shutdown.cancel();
        let interrupted = wait_with_progress(hour, &shutdown, || false, String::new).await;
        assert_eq!(
            [done, timed_out, interrupted],
            [WaitOutcome::Done, WaitOutcome::TimedOut, WaitOutcome::Interrupted]
        );
    }

    #[test]
    fn rate_counts_what_was_added_since_the_last_reading() {
        let start = Instant::now();
        let mut meter = RateMeter::new(start);
        assert_eq!(meter.per_second(10, start + Duration::from_secs(2)), 5.0);
        assert_eq!(meter.per_second(13, start + Duration::from_secs(3)), 3.0);
    }
}
