//! Encoded forms of a message, each made on first use and only once.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::WireFormat;

/// A linked list and not a table: most messages are needed in one or two forms, and a message that is not
/// encoded costs 16 bytes.
#[derive(Default)]
pub(crate) struct FrameCache(OnceLock<Box<CachedFrame>>);

struct CachedFrame {
    form: EncodedForm,
    bytes: Bytes,
    next: FrameCache,
}

/// An encoded form of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EncodedForm {
    /// Frame with the whole message.
    Full(WireFormat),
    /// Delta from the previous message, shared by the frames of all wire formats; empty when it saves
    /// nothing.
    DeltaPayload,
    /// Frame with the delta.
    Delta(WireFormat),
}

impl FrameCache {
    /// Returns the bytes of a form, encoded on first use. Concurrent calls of two lanes encode once.
    /// `encode` must not request another form.
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
