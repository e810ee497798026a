//! A line on standard error while it runs: one that renews itself on a terminal, else one a second.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::output;

/// How a stretch of time ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// What was waited for is there.
    Done,
    /// The time was over.
    Over,
    /// Somebody wants it to end.
    Interrupted,
}

/// Turns a count that grows into how fast it does.
pub(super) struct Meter {
    at: Instant,
    count: u64,
}

/// Waits until it is `done`, at most for `span`, and shows every second what `tell` says.
pub(super) async fn watch(
    span: Duration,
    shutdown: &CancellationToken,
    mut done: impl FnMut() -> bool,
    mut tell: impl FnMut() -> String,
) -> Ended {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    let end = Instant::now() + span;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Instant::now();
    let ended = loop {
        tokio::select! {
            _ = look.tick() => {}
            () = tokio::time::sleep_until(end.into()) => break Ended::Over,
            () = shutdown.cancelled() => break Ended::Interrupted,
        }
        if done() {
            break Ended::Done;
        }
        if told.elapsed() >= TELL {
            told += TELL;
            show(&bar, tell());
        }
    };
    bar.finish_and_clear();
    ended
}

/// How soon the end is noticed.
const LOOK: Duration = Duration::from_millis(50);

const TELL: Duration = Duration::from_secs(1);

impl Meter {
    pub(super) fn new(begun: Instant) -> Meter {
        Meter { at: begun, count: 0 }
    }

    /// A second, since the last time it was asked.
    pub(super) fn rate(&mut self, count: u64, now: Instant) -> f64 {
        let (took, more) =
            (now.saturating_duration_since(self.at), count.saturating_sub(self.count));
        (self.at, self.count) = (now, count);
        more as f64 / took.as_secs_f64().max(f64::EPSILON)
    }
}

fn show(bar: &ProgressBar, text: String) {
    if bar.is_hidden() {
        output::notice(text);
    } else {
        bar.set_message(text);
        bar.tick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_when_it_is_done_over_or_interrupted() {
        let (hour, shutdown) = (Duration::from_secs(3_600), CancellationToken::new());
        let done = watch(hour, &shutdown, || true, String::new).await;
        let over = watch(Duration::from_millis(1), &shutdown, || false, String::new).await;
        shutdown.cancel();
        let interrupted = watch(hour, &shutdown, || false, String::new).await;
        assert_eq!([done, over, interrupted], [Ended::Done, Ended::Over, Ended::Interrupted]);
    }

    #[test]
    fn a_meter_tells_what_was_added_since_it_was_asked() {
        let begun = Instant::now();
        let mut meter = Meter::new(begun);
        assert_eq!(meter.rate(10, begun + Duration::from_secs(2)), 5.0);
        assert_eq!(meter.rate(13, begun + Duration::from_secs(3)), 3.0);
    }
}
