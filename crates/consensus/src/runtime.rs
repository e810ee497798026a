//! The async runtime of openraft: tokio with timers of all groups aligned to one tick.
//!
//! Each group has its own timer with its own phase, and waking up for them is most of the cost of an idle
//! node. Timers that expire within one tick fire together, so the processor wakes once for all of them.
//! `benches/README.md` has measurements.

use std::sync::LazyLock;
use std::time::Duration;

use openraft::{AsyncRuntime, Instant as _, OptionalSend, TokioInstant};
use openraft_rt_tokio::TokioRuntime;

/// Maximum delay of a timer. A third of a tick of the LAN settings; election timeouts are hundreds of
/// milliseconds.
pub(crate) const TIMER_TICK: Duration = Duration::from_millis(10);

/// The instant from which ticks are counted.
static TIMER_ORIGIN: LazyLock<TokioInstant> = LazyLock::new(TokioInstant::now);

#[derive(Debug)]
pub(crate) struct RaftRuntime(TokioRuntime);

/// The first tick that is not before `deadline`.
fn round_up_to_tick(deadline: TokioInstant) -> TokioInstant {
    let since = deadline - *TIMER_ORIGIN;
    let remainder = since.as_nanos() % TIMER_TICK.as_nanos();
    let left = u64::try_from(TIMER_TICK.as_nanos() - remainder).unwrap_or_default();
    if remainder == 0 { deadline } else { deadline + Duration::from_nanos(left) }
}

impl AsyncRuntime for RaftRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = TokioInstant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn sleep(duration: Duration) -> Self::Sleep {
        Self::sleep_until(TokioInstant::now() + duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(round_up_to_tick(deadline))
    }

    // The remainder is tokio's: a future with a timeout mostly completes before it.

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        RaftRuntime(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use openraft_rt::testing::Suite;

    use super::*;

    #[test]
    fn passes_openraft_runtime_suite() {
        Suite::<RaftRuntime>::test_all();
    }

    #[test]
    fn timers_within_one_tick_fire_together_and_never_early() {
        let tick = round_up_to_tick(TokioInstant::now());
        assert_eq!(round_up_to_tick(tick), tick);
        let just_after = tick + Duration::from_nanos(1);
        assert_eq!(round_up_to_tick(just_after), tick + TIMER_TICK);
        assert_eq!(
            round_up_to_tick(tick + TIMER_TICK - Duration::from_nanos(1)),
            tick + TIMER_TICK
        );
        assert_eq!(round_up_to_tick(just_after + TIMER_TICK), tick + 2 * TIMER_TICK);
    }
}
