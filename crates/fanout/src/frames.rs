//! What was made of a message for those it is sent to: each thing at its first need, and once.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::Wire;

/// A list, not a table: most messages are wanted on one wire or two, and a message that nobody wants
/// costs 16 bytes.
#[derive(Default)]
pub(crate) struct Frames(OnceLock<Box<Made>>);

struct Made {
    form: Form,
    bytes: Bytes,
    next: Frames,
}

/// What may be made of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A frame of the message.
    Whole(Wire),
    /// What makes it out of the message before, for frames of every wire; empty when that is no gain.
    Delta,
    /// A frame of that.
    Difference(Wire),
}

impl Frames {
    /// What is there in this form, or is made now. Two lanes that ask at once make it once. `make`
    /// must not ask for another form.
    pub(crate) fn get(&self, form: Form, make: impl Fn() -> Bytes) -> Bytes {
        let mut frames = self;
        loop {
            let made = frames
                .0
                .get_or_init(|| Box::new(Made { form, bytes: make(), next: Frames::default() }));
            if made.form == form {
                return made.bytes.clone();
            }
            frames = &made.next;
        }
    }
}
