//! What was made of a message for those it is sent to: each thing at its first need, and once.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::WireFormat;

/// A list, not a table: most messages are wanted on one wire or two, and a message that nobody wants
/// costs 16 bytes.
#[derive(Default)]
pub(crate) struct FrameCache(OnceLock<Box<CachedFrame>>);

struct CachedFrame {
    form: EncodedForm,
    bytes: Bytes,
    next: FrameCache,
}

/// What may be made of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EncodedForm {
    /// A frame of the message.
    Full(WireFormat),
    /// What makes it out of the message before, for frames of every wire; empty when that is no gain.
    DeltaPayload,
    /// A frame of that.
    Delta(WireFormat),
}

impl FrameCache {
    /// What is there in this form, or is made now. Two lanes that ask at once make it once. `encode`
    /// must not ask for another form.
    pub(crate) fn get(&self, form: EncodedForm, encode: impl Fn() -> Bytes) -> Bytes {
        let mut cache = self;
        loop {
            let cached = cache.0.get_or_init(|| {
                Box::new(CachedFrame { form, bytes: encode(), next: FrameCache::default() })
            });
            if cached.form == form {
                return cached.bytes.clone();
            }
            cache = &cached.next;
        }
    }
}
