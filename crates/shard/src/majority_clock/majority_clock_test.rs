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
    let majority_of = |readings: &[u64]| majority_time(readings.iter().map(|&at| Some(time(at))));
    assert_eq!(majority_of(&[5]), Some(time(5)));
    assert_eq!(majority_of(&[5, 9]), Some(time(5)), "one of two is not a majority");
    assert_eq!(majority_of(&[5, u64::MAX, 7]), Some(time(7)));
    assert_eq!(majority_of(&[5, 9, 7, 1]), Some(time(5)));
    assert_eq!(majority_of(&[]), None);
}

#[test]
fn unknown_clocks_count_as_the_lowest() {
    assert_eq!(majority_time([Some(time(5)), None, Some(time(9))]), Some(time(5)));
    assert_eq!(majority_time([Some(time(5)), None, None]), None);
}

#[test]
fn without_a_majority_time_continues_from_the_last_one() {
    let mut clock = MajorityClock::default();
    assert_eq!(clock.next_entry_time(time(0), ms(10), None), None, "no majority was ever known");
    assert_eq!(clock.next_entry_time(time(0), ms(20), Some(time(1_000))), Some(time(1_000)));
    assert_eq!(clock.next_entry_time(time(1_000), ms(50), None), Some(time(1_030)));
}

#[test]
fn log_ahead_of_its_clocks_advances_at_half_speed() {
    let mut clock = MajorityClock::default();
    let mut entry_time =
        |floor, now: u64| clock.next_entry_time(time(floor), ms(now), Some(time(now))).unwrap().0;
    assert_eq!(entry_time(1_000, 0), 1_000);
    assert_eq!(entry_time(1_000, 1), 1_000);
    assert_eq!(entry_time(1_000, 500), 1_250);
    assert_eq!(entry_time(1_250, 501), 1_250);
    assert_eq!(entry_time(1_250, 1_248), 1_624);
    assert_eq!(entry_time(1_624, 1_700), 1_700);
}

proptest! {
    /// Correct clocks are within 100 ms of each other; a minority of wrong clocks shows any time, or none.
    #[test]
    fn minority_of_wrong_clocks_cannot_move_time_outside_the_correct_range(
        correct in vec(10_000..10_100u64, 1..6),
        wrong in vec(prop::option::of(any::<u64>()), 0..5),
    ) {
        let wrong = &wrong[..wrong.len().min(correct.len() - 1)];
        let readings = correct.iter().map(|&at| Some(time(at)));
        let stamped = majority_time(readings.chain(wrong.iter().map(|at| at.map(Timestamp)))).unwrap();
        let (lowest, highest) = (correct.iter().min().unwrap(), correct.iter().max().unwrap());
        prop_assert!((*lowest..=*highest).contains(&stamped.0), "{stamped:?}");
    }

    /// Several owners write a log, each with its own monotonic clock and its own view of the clocks. Log
    /// time never decreases, and never passes the time that a majority has shown, or the initial time.
    #[test]
    fn log_time_never_decreases_and_never_passes_the_majority(
        start in 0..20_000u64,
        entries in vec((0..3usize, 0..500u64, prop::option::of(0..100u64)), 1..60),
    ) {
        let mut owners = vec![MajorityClock::default(); 3];
        let (mut true_time, mut floor) = (10_000, time(start));
        let began = true_time;
        for (owner, passed, error) in entries {
            true_time += passed;
            let majority = error.map(|error| time(true_time - error));
            // Monotonic clocks of different nodes are unrelated.
            let now = ms(true_time + 1_000_000 * owner as u64);
            let Some(stamped) = owners[owner].next_entry_time(floor, now, majority) else { continue };
            prop_assert!(stamped >= floor);
            let ahead = start + (true_time - began) / 2;
            prop_assert!(stamped.0 <= true_time.max(ahead), "{stamped:?} at {true_time}");
            floor = stamped;
        }
    }
}
