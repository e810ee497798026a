use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn time(ms: u64) -> Timestamp {
    Timestamp(ms)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn majority_of_three_is_the_second_highest() {
    let of = |readings: &[u64]| majority(readings.iter().map(|&at| Some(time(at))));
    assert_eq!(of(&[5]), Some(time(5)));
    assert_eq!(of(&[5, 9]), Some(time(5)), "one of two is no majority");
    assert_eq!(of(&[5, u64::MAX, 7]), Some(time(7)));
    assert_eq!(of(&[5, 9, 7, 1]), Some(time(5)));
    assert_eq!(of(&[]), None);
}

#[test]
fn unknown_clocks_count_as_the_lowest() {
    assert_eq!(majority([Some(time(5)), None, Some(time(9))]), Some(time(5)));
    assert_eq!(majority([Some(time(5)), None, None]), None);
}

#[test]
fn without_a_majority_time_goes_on_from_the_last_one() {
    let mut clock = MajorityClock::default();
    assert_eq!(clock.stamp(time(0), ms(10), None), None, "no majority was ever known");
    assert_eq!(clock.stamp(time(0), ms(20), Some(time(1_000))), Some(time(1_000)));
    assert_eq!(clock.stamp(time(1_000), ms(50), None), Some(time(1_030)));
}

#[test]
fn a_log_that_is_ahead_of_its_clocks_advances_at_half_speed_until_they_reach_it() {
    let mut clock = MajorityClock::default();
    let mut stamp = |floor, now: u64| clock.stamp(time(floor), ms(now), Some(time(now))).unwrap().0;
    assert_eq!(stamp(1_000, 0), 1_000);
    assert_eq!(stamp(1_000, 1), 1_000);
    assert_eq!(stamp(1_000, 500), 1_250);
    assert_eq!(stamp(1_250, 501), 1_250);
    assert_eq!(stamp(1_250, 1_248), 1_624);
    assert_eq!(stamp(1_624, 1_700), 1_700);
}

proptest! {
    /// Correct clocks are within 100 ms of each other; a minority shows anything, or nothing.
    #[test]
    fn no_minority_of_clocks_moves_the_time_out_of_the_range_of_the_correct_ones(
        correct in vec(10_000..10_100u64, 1..6),
        wrong in vec(prop::option::of(any::<u64>()), 0..5),
    ) {
        let wrong = &wrong[..wrong.len().min(correct.len() - 1)];
        let readings = correct.iter().map(|&at| Some(time(at)));
        let stamped = majority(readings.chain(wrong.iter().map(|at| at.map(Timestamp)))).unwrap();
        let (lowest, highest) = (correct.iter().min().unwrap(), correct.iter().max().unwrap());
        prop_assert!((*lowest..=*highest).contains(&stamped.0), "{stamped:?}");
    }

    /// A log that several owners write, each with its own monotonic clock and its own view of the
    /// clocks: its time never falls, and never passes what a majority has shown, or where it began.
    #[test]
    fn the_time_of_a_log_never_falls_and_never_passes_the_clocks(
        start in 0..20_000u64,
        entries in vec((0..3usize, 0..500u64, prop::option::of(0..100u64)), 1..60),
    ) {
        let mut owners = vec![MajorityClock::default(); 3];
        let (mut true_time, mut floor) = (10_000, time(start));
        let began = true_time;
        for (owner, passed, error) in entries {
            true_time += passed;
            let majority = error.map(|error| time(true_time - error));
            // Monotonic clocks of different nodes have nothing to do with each other.
            let now = ms(true_time + 1_000_000 * owner as u64);
            let Some(stamped) = owners[owner].stamp(floor, now, majority) else { continue };
            prop_assert!(stamped >= floor);
            let ahead = start + (true_time - began) / 2;
            prop_assert!(stamped.0 <= true_time.max(ahead), "{stamped:?} at {true_time}");
            floor = stamped;
        }
    }
}
