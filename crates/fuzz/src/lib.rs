//! Runs properties of parsers over arbitrary input.
//!
//! # Overview
//!
//! A *target* is an ordinary test: it calls [`check!`] with a name, seeds, and a property, which is a function of
//! bytes that panics when the property does not hold. Targets stand in the crate whose parser they test, in a
//! module `fuzz`, so that they reach private parsers. Seeds are valid inputs, made by the encoders of the crate.
//! Inputs that a run of libFuzzer found, the corpus, are files in the folder `corpus/NAME` of the crate.
//!
//! # Guarantees
//!
//! - Under `cargo test`, a target runs its seeds and every file of its corpus, then arbitrary bytes and changed
//!   known inputs for at most two seconds. A failing input is reduced and reported. Nothing but cargo is needed.
//! - Under `scripts/fuzz`, which compiles with `--cfg libfuzzer`, libFuzzer chooses the inputs by the coverage
//!   that they reach, and writes an input that fails to `target/fuzz/findings`.
//! - A target without a corpus fails.
//!
//! # Non-goals
//!
//! Models of a whole component: those are property tests with generators of their own. Timeouts under
//! `cargo test`.
//!
//! # Data flow
//!
//! seeds and `corpus/NAME` → `mutation` or libFuzzer → property → panic → reduced input.
//!
//! # Caller contract
//!
//! A property depends on its input alone and leaves nothing behind. [`Input`] reads small decisions, such as
//! where to split a stream, from the beginning of the input; the rest is for the parser.

mod input;
#[cfg(libfuzzer)]
mod libfuzzer;
mod mutation;
mod target;

pub use input::Input;
pub use target::Target;

/// Checks a property over seeds, over the corpus `corpus/NAME` of the calling crate, and over input made from both.
///
/// The arguments are the name of the target, the seeds, which are a `Vec<Vec<u8>>`, and a `fn(&[u8])` that panics when
/// the property does not hold.
#[macro_export]
macro_rules! check {
    ($name:literal, $seeds:expr, $property:expr) => {
        $crate::Target::new(env!("CARGO_MANIFEST_DIR"), $name).check($seeds, $property)
    };
}
