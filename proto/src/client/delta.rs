//! The one kind of difference that there is.

use super::{ErrorCode, InvalidFrame};

/// The delta format of the Fossil version control system (fossil-scm.org, "Delta Format"); the
/// package `fossil-delta` of npm reads it.
pub(super) const FOSSIL: &str = "fossil";

/// Whether a kind that a client named is that one.
pub(super) fn is_fossil(kind: &str) -> Result<bool, InvalidFrame> {
    let why = "`delta` is \"fossil\"; leave it out for whole messages";
    let wrong = || InvalidFrame::new(ErrorCode::NotSupported, why);
    (kind == FOSSIL).then_some(true).ok_or_else(wrong)
}
