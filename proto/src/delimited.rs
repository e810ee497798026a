//! Framing on a byte stream (QUIC): each frame follows its length as a varint.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A frame length over the limit or malformed. The stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {len} bytes exceeds the limit of {max} bytes")]
pub struct FrameTooLong {
    /// The announced length in bytes; [`u64::MAX`] for a malformed varint.
    pub len: u64,
    /// The limit in bytes.
    pub max: usize,
}

/// Encodes a frame with its length in front.
pub fn encode(frame: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(prost::length_delimiter_len(frame.len()) + frame.len());
    prost::encoding::encode_varint(frame.len() as u64, &mut out);
    out.put_slice(frame);
    out.freeze()
}

/// Removes the length from the output of [`encode`]. The result shares its memory.
pub fn strip_length(encoded: &Bytes) -> Bytes {
    let length = encoded.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    encoded.slice(length.min(encoded.len())..)
}

/// Splits a byte stream that arrives in chunks of any size into frames.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    max: usize,
}

/// The maximum length of a varint: each byte holds 7 of the 64 bits.
const VARINT_BYTES_MAX: usize = 10;

impl FrameDecoder {
    /// Creates a decoder for frames of at most `max` bytes. It buffers at most one frame and one push.
    pub fn new(max: usize) -> FrameDecoder {
        FrameDecoder { buffer: BytesMut::new(), max }
    }

    /// Sets the maximum length of the following frames, including one that is incomplete.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Appends received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next complete frame, or `None` until more bytes arrive.
    ///
    /// # Errors
    /// [`FrameTooLong`] as soon as the length is known to exceed the limit or to be malformed; the stream is
    /// then unusable.
    #[allow(
        clippy::should_implement_trait,
        reason = "bytes are pushed between calls, which an iterator does not allow"
    )]
    pub fn next(&mut self) -> Result<Option<Bytes>, FrameTooLong> {
        let Some((len, prefix_len)) = self.next_length()? else { return Ok(None) };
        if self.buffer.len() < prefix_len + len {
            return Ok(None);
        }
        self.buffer.advance(prefix_len);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }

    /// Whether the buffer holds an incomplete frame: the stream must not end here.
    pub fn has_partial_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Bytes of memory that received bytes take.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// The length of the next frame, and the length of its prefix, in bytes.
    fn next_length(&self) -> Result<Option<(usize, usize)>, FrameTooLong> {
        let mut len = 0u64;
        for (index, byte) in self.buffer.iter().take(VARINT_BYTES_MAX).enumerate() {
            len |= u64::from(byte & 0x7f).checked_shl(7 * index as u32).unwrap_or(0);
            if byte & 0x80 == 0 {
                let fits = usize::try_from(len).ok().filter(|&len| len <= self.max);
                let len = fits.ok_or(FrameTooLong { len, max: self.max })?;
                return Ok(Some((len, index + 1)));
            }
        }
        if self.buffer.len() >= VARINT_BYTES_MAX {
            return Err(FrameTooLong { len: u64::MAX, max: self.max });
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn frames_are_decoded_from_chunks_of_any_size(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
            chunk_bytes in 1usize..40,
        ) {
            for frame in &frames {
                prop_assert_eq!(&strip_length(&encode(frame))[..], &frame[..]);
            }
            let stream: Vec<u8> = frames.iter().flat_map(|f| encode(f)).collect();
            let mut decoder = FrameDecoder::new(300);
            let mut out = Vec::new();
            for bytes in stream.chunks(chunk_bytes) {
                decoder.push(bytes);
                while let Some(frame) = decoder.next().expect("within the limit") {
                    out.push(frame.to_vec());
                }
            }
            prop_assert_eq!(out, frames);
            prop_assert!(!decoder.has_partial_frame());
        }
    }

    #[test]
    fn frame_over_the_limit_is_rejected_before_it_arrives() {
        let mut decoder = FrameDecoder::new(3);
        decoder.push(&encode(b"abcd")[..1]);
        assert_eq!(decoder.next(), Err(FrameTooLong { len: 4, max: 3 }));
    }

    #[test]
    fn unterminated_length_is_rejected() {
        let mut decoder = FrameDecoder::new(3);
        decoder.push(&[0xff; 10]);
        assert_eq!(decoder.next(), Err(FrameTooLong { len: u64::MAX, max: 3 }));
    }

    #[test]
    fn incomplete_frame_is_partial() {
        let mut decoder = FrameDecoder::new(16);
        decoder.push(&encode(b"abcd")[..3]);
        assert_eq!(decoder.next(), Ok(None));
        assert!(decoder.has_partial_frame());
    }
}
