//! A target: where its corpus is, and how a test run checks it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

use crate::mutation;

/// Maximum time of one target in a test run after the replay of its corpus.
const TIME_MAX: Duration = Duration::from_secs(2);

/// The maximum number of inputs in a test run after the replay of the corpus.
const CASES: u32 = 2_000;

/// A property with a corpus. Use [`check!`](crate::check).
pub struct Target {
    corpus: PathBuf,
    #[cfg_attr(not(libfuzzer), expect(dead_code, reason = "scripts/fuzz selects targets by name"))]
    name: &'static str,
}

impl Target {
    /// The target `name` of the crate in the folder `crate_dir`.
    pub fn new(crate_dir: &str, name: &'static str) -> Self {
        Self { corpus: Path::new(crate_dir).join("corpus").join(name), name }
    }

    /// Checks `property` over `seeds`, the corpus, and over input made from both.
    ///
    /// # Panics
    /// If `property` panics, or the corpus is missing or empty.
    pub fn check(&self, seeds: Vec<Vec<u8>>, property: fn(&[u8])) {
        #[cfg(libfuzzer)]
        crate::libfuzzer::run(self.name, &seeds, property);
        #[cfg(not(libfuzzer))]
        self.run_bounded(seeds, property);
    }

    #[cfg_attr(libfuzzer, expect(dead_code, reason = "libFuzzer chooses the inputs"))]
    fn run_bounded(&self, seeds: Vec<Vec<u8>>, property: fn(&[u8])) {
        let mut known: Vec<_> =
            seeds.into_iter().enumerate().map(|(at, seed)| (format!("seed {at}"), seed)).collect();
        known.extend(self.read_corpus());
        for (name, input) in &known {
            let replay = std::panic::catch_unwind(|| property(input));
            if let Err(panic) = replay {
                panic!("{name} failed with {}", message(&*panic));
            }
        }
        let config = Config {
            cases: CASES,
            failure_persistence: None,
            rng_seed: seed(),
            ..Config::default()
        };
        let inputs = mutation::inputs(known.into_iter().map(|(_, input)| input).collect());
        let deadline = Instant::now() + TIME_MAX;
        let result = TestRunner::new(config).run(&inputs, |input| {
            if Instant::now() < deadline {
                check_one(property, &input)?;
            }
            Ok(())
        });
        match result {
            Ok(()) => {}
            Err(TestError::Fail(reason, input)) => {
                panic!("{reason}\nthe reduced input is: {}", escape(&input))
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The files of the corpus, in the order of their names.
    fn read_corpus(&self) -> Vec<(String, Vec<u8>)> {
        let folder = std::fs::read_dir(&self.corpus)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", self.corpus.display()));
        let mut paths: Vec<_> =
            folder.map(|entry| entry.expect("an entry of the corpus").path()).collect();
        assert!(!paths.is_empty(), "{} is empty", self.corpus.display());
        paths.sort();
        let read = |path: PathBuf| {
            let input = std::fs::read(&path).expect("a file of the corpus");
            (path.display().to_string(), input)
        };
        paths.into_iter().map(read).collect()
    }
}

/// The same input in every run, so that a test fails with the change that made it fail. `PROPTEST_RNG_SEED`
/// chooses other input; `scripts/fuzz` searches for more.
fn seed() -> RngSeed {
    match Config::default().rng_seed {
        RngSeed::Random => RngSeed::Fixed(0),
        chosen => chosen,
    }
}

/// Runs `property`, so that proptest can reduce the input after a panic.
fn check_one(property: fn(&[u8]), input: &[u8]) -> Result<(), TestCaseError> {
    std::panic::catch_unwind(|| property(input))
        .map_err(|panic| TestCaseError::fail(message(&*panic)))
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without text").to_owned()
}

/// `input` as the argument of `printf '%b'`, which writes a file for the corpus.
fn escape(input: &[u8]) -> String {
    input.iter().fold(String::new(), |mut text, byte| {
        write!(text, "\\x{byte:02x}").expect("a string grows");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &'static str) -> Target {
        Target::new(env!("CARGO_MANIFEST_DIR"), name)
    }

    #[test]
    #[cfg(not(libfuzzer))]
    #[should_panic(expected = "the reduced input is: \\x61\\x62")]
    fn failing_input_is_found_and_reduced() {
        target("self_test")
            .check(vec![], |input| assert!(input == b"abx" || !input.starts_with(b"ab")));
    }

    #[test]
    #[cfg(not(libfuzzer))]
    #[should_panic(expected = "corpus/self_test/abx failed with")]
    fn failing_file_of_the_corpus_is_named() {
        target("self_test").check(vec![], |input| assert_ne!(input, b"abx"));
    }

    #[test]
    #[cfg(not(libfuzzer))]
    #[should_panic(expected = "cannot read")]
    fn target_without_corpus_fails() {
        target("missing").check(vec![], |_| ());
    }
}
