//! Panics of redb as errors: at some damaged pages it panics instead of returning an error.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// redb panicked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("redb cannot use a damaged page: {0}")]
pub(super) struct RedbPanic(String);

/// Runs an operation of redb. After an error the database must not be used again, nor closed: it would write what
/// the damaged page made wrong.
pub(super) fn catch_redb_panic<T>(operation: impl FnOnce() -> T) -> Result<T, RedbPanic> {
    catch_unwind(AssertUnwindSafe(operation)).map_err(|payload| RedbPanic(message(&*payload)))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text: Option<&dyn fmt::Display> = match payload.downcast_ref::<String>() {
        Some(text) => Some(text),
        None => payload.downcast_ref::<&str>().map(|text| text as &dyn fmt::Display),
    };
    text.map_or("no message".to_owned(), ToString::to_string)
}
