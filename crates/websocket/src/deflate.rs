//! permessage-deflate (RFC 7692) without context takeover: one message in, one message out. A message
//! is compressed once for all its readers, and a connection has no compression state.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Messages are compressed with a window of 2 to the power of this, 4 KiB. With the maximum, 15, a
/// message of 34 KiB is a sixth smaller and one below 4 KiB is not smaller at all; but a client that
/// limits the window to save memory would get no compression.
pub(crate) const WINDOW_BITS: u8 = 12;

/// The end of a sync flush. RFC 7692 (7.2.1) removes it, and appends it again before inflating.
const SYNC_FLUSH_TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// Shorter messages are not compressed: they would save a few bytes, less than a tenth of a packet.
const DEFLATE_BYTES_MIN: usize = 128;

/// Why a message cannot be inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InflateError {
    /// The message is not deflate data.
    InvalidData,
    /// The inflated message exceeds the limit.
    TooLong,
}

// One of each per thread, for all its connections, reset between messages. A new compressor would
// allocate and clear hundreds of KiB for each message, a new decompressor tens.
thread_local! {
    static COMPRESS: RefCell<Compress> = RefCell::new(new_compressor());
    static DECOMPRESS: RefCell<Decompress> = RefCell::new(Decompress::new(false));
}

fn new_compressor() -> Compress {
    Compress::new_with_window_bits(Compression::default(), false, WINDOW_BITS)
}

/// The largest result for a message of this length: that of `deflateBound` of zlib, and a sync flush.
fn deflated_len_max(len: usize) -> usize {
    len + len.div_ceil(8) + len.div_ceil(64) + 16
}

/// Compresses a message. `None` when the result would not be smaller.
pub(crate) fn deflate(message: &[u8]) -> Option<Vec<u8>> {
    if message.len() < DEFLATE_BYTES_MIN {
        return None;
    }
    // Room for the result of any message. A compressor that stops for lack of room keeps the rest of its output,
    // and zlib-rs 0.6.8 does not drop all of that in `reset`: some incompressible messages later it panics.
    let mut out = Vec::with_capacity(deflated_len_max(message.len()));
    COMPRESS.with_borrow_mut(|compress| {
        compress.reset();
        let result = compress.compress_vec(message, &mut out, FlushCompress::Sync);
        let has_read_all = compress.total_in() == message.len() as u64;
        if result.is_err() || !has_read_all || out.len() == out.capacity() {
            *compress = new_compressor();
            return None;
        }
        let len = out.strip_suffix(&SYNC_FLUSH_TAIL).map(<[u8]>::len)?;
        out.truncate(len);
        (len < message.len()).then_some(out)
    })
}

/// Inflates a message. Neither its length nor, but for one byte, its capacity exceeds `bytes_max`.
pub(crate) fn inflate(deflated: &[u8], bytes_max: usize) -> Result<Vec<u8>, InflateError> {
    let mut out = Vec::new();
    DECOMPRESS.with_borrow_mut(|decompress| {
        decompress.reset(false);
        for part in [deflated, &SYNC_FLUSH_TAIL] {
            inflate_part(decompress, part, &mut out, bytes_max)?;
        }
        Ok(out)
    })
}

fn inflate_part(
    decompress: &mut Decompress,
    mut part: &[u8],
    out: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<(), InflateError> {
    // Also when all input was read: some output may not have fit.
    while !part.is_empty() || out.len() == out.capacity() {
        if out.len() == out.capacity() {
            // One byte over the limit, to detect a message that exceeds it.
            let room = bytes_max.saturating_add(1).saturating_sub(out.len());
            out.reserve_exact(out.len().max(part.len() * 2).max(64).min(room));
        }
        let (read, produced) = (decompress.total_in(), out.len());
        let status = decompress.decompress_vec(part, out, FlushDecompress::None);
        let status = status.map_err(|_| InflateError::InvalidData)?;
        let read = (decompress.total_in() - read) as usize;
        part = &part[read..];
        if out.len() > bytes_max {
            return Err(InflateError::TooLong);
        }
        match status {
            // A client may end the deflate stream within a message and start a new one (7.2.3.4).
            Status::StreamEnd => decompress.reset(false),
            _ if read == 0 && out.len() == produced && !part.is_empty() => {
                return Err(InflateError::InvalidData);
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 10_000;

    #[test]
    fn rfc_7692_examples_are_inflated() {
        for (case, deflated) in [
            ("a compressed block", &b"\xf2\x48\xcd\xc9\xc9\x07\x00"[..]),
            ("no compression", b"\x00\x05\x00\xfa\xffHello\x00"),
            ("a last block", b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00"),
            ("two blocks", b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"),
        ] {
            assert_eq!(inflate(deflated, MAX).as_deref(), Ok(&b"Hello"[..]), "{case}");
        }
        assert_eq!(inflate(b"\x00", MAX).as_deref(), Ok(&b""[..]), "an empty message");
    }

    /// The same bytes at each call.
    fn random(len: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(next).collect()
    }

    #[test]
    fn short_or_incompressible_message_is_not_deflated() {
        assert_eq!(deflate(&[b'x'; DEFLATE_BYTES_MIN - 1]), None);
        assert!(deflate(&[b'x'; DEFLATE_BYTES_MIN]).is_some());
        assert_eq!(deflate(&random(1_000)), None);
    }

    /// Found by the conformance suite: the compressor panicked after some such messages.
    #[test]
    fn compressor_survives_any_number_of_incompressible_messages() {
        let incompressible = random(100_000);
        for len in (DEFLATE_BYTES_MIN..40_000).step_by(97).chain([65_536, 100_000]) {
            assert_eq!(deflate(&incompressible[..len]), None, "{len}");
        }
        let message = [&incompressible[..300], &[0; 300]].concat();
        let deflated = deflate(&message).expect("smaller");
        assert_eq!(inflate(&deflated, MAX), Ok(message));
    }

    #[test]
    fn decompression_bomb_is_stopped_at_the_limit() {
        let bomb = deflate(&vec![0; 1 << 20]).expect("much smaller");
        assert!(bomb.len() < 2_000);
        assert_eq!(inflate(&bomb, (1 << 20) - 1), Err(InflateError::TooLong));
        let whole = inflate(&bomb, 1 << 20).expect("at the limit");
        assert_eq!((whole.len(), whole.capacity()), (1 << 20, (1 << 20) + 1));
    }

    #[test]
    fn invalid_deflate_data_is_rejected() {
        assert_eq!(inflate(b"\xff\xff\xff", MAX), Err(InflateError::InvalidData));
        assert_eq!(inflate(b"\x00\x05\x00\xfa\x00Hello\x00", MAX), Err(InflateError::InvalidData));
    }

    #[test]
    fn repetition_is_compressed_only_within_the_window() {
        let twice = |len| deflate(&[random(len), vec![0; 100], random(len)].concat());
        let near = twice(3_000).expect("smaller");
        assert!(near.len() < 3_300, "{}", near.len());
        let far = twice(6_000).expect("smaller, for the zeros");
        assert!(far.len() > 11_900, "{}", far.len());
    }
}
