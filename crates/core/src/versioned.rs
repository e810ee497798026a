//! Encoding of a value with its cluster version: the version, then the value in postcard.
//!
//! The version determines how the rest is decoded, so its own form never changes. Data that cannot be
//! decoded is an error with a reason: a node that guessed would end in a different state than the others.

use std::io::{self, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{ClusterVersion, UnsupportedVersion, VersionRange};

/// Why bytes cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionedDecodeError {
    /// The bytes are too few to have a version.
    #[error("{0} bytes are too few to carry a cluster version")]
    MissingVersion(usize),
    /// The value was written in a version that this build does not read.
    #[error(transparent)]
    Unsupported(#[from] UnsupportedVersion),
    /// The bytes are not a value of their version.
    #[error("damaged: {0}")]
    Corrupt(String),
}

/// Encodes a value in `version`.
///
/// # Panics
/// Never for the types of this workspace: postcard rejects only sequences and maps of unknown length.
pub fn encode<T: Serialize + ?Sized>(version: ClusterVersion, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(version, value, &mut bytes)
        .expect("a growing buffer accepts every value of known length");
    bytes
}

/// Writes the bytes of [`encode`] to `writer`.
///
/// # Errors
/// The errors of `writer`.
pub fn encode_into<T: Serialize + ?Sized>(
    version: ClusterVersion,
    value: &T,
    writer: &mut (impl Write + ?Sized),
) -> io::Result<()> {
    writer.write_all(&version.prefix())?;
    let writer = postcard::to_io(value, writer).map_err(io::Error::other)?;
    writer.write_all(version_suffix(version))
}

/// Decodes a value of a version that this build reads; no bytes may follow it.
///
/// # Errors
/// [`VersionedDecodeError`] when the version is missing or unsupported, the value is corrupt, or bytes
/// follow it.
pub fn decode<T: DeserializeOwned>(
    bytes: &[u8],
) -> Result<(ClusterVersion, T), VersionedDecodeError> {
    decode_in_range(VersionRange::readable(), bytes)
}

/// Like [`decode`], for a build that reads `readable`.
///
/// # Errors
/// See [`decode`].
pub fn decode_in_range<T: DeserializeOwned>(
    readable: VersionRange,
    bytes: &[u8],
) -> Result<(ClusterVersion, T), VersionedDecodeError> {
    match take_from_bytes(readable, bytes)? {
        (version, value, []) => Ok((version, value)),
        (_, _, remaining) => {
            Err(VersionedDecodeError::Corrupt(format!("{} bytes too many", remaining.len())))
        }
    }
}

/// Decodes the value at the start of `bytes` and returns the bytes that follow it.
///
/// # Errors
/// [`VersionedDecodeError`] when the version is missing or unsupported, or the value is corrupt.
pub fn take_from_bytes<T: DeserializeOwned>(
    readable: VersionRange,
    bytes: &[u8],
) -> Result<(ClusterVersion, T, &[u8]), VersionedDecodeError> {
    let (version, body) = ClusterVersion::split_prefix(bytes)
        .ok_or(VersionedDecodeError::MissingVersion(bytes.len()))?;
    readable.ensure_contains(version)?;
    let (value, remaining) = postcard::take_from_bytes(body)
        .map_err(|error| VersionedDecodeError::Corrupt(error.to_string()))?;
    let remaining = remaining.strip_prefix(version_suffix(version));
    let remaining = remaining.ok_or_else(|| {
        VersionedDecodeError::Corrupt(format!("a field that version {version} added is missing"))
    })?;
    Ok((version, value, remaining))
}

/// Bytes that follow every value of a version. No release adds any. The versions that features add have one
/// more field, so that a build without it cannot decode such a value by chance.
fn version_suffix(version: ClusterVersion) -> &'static [u8] {
    match VersionRange::HAS_TEST_VERSIONS && version > ClusterVersion::FIRST {
        true => b"next",
        false => b"",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: VersionRange =
        VersionRange { min: ClusterVersion::FIRST, max: ClusterVersion::FIRST };
    const LATER: VersionRange = VersionRange { min: ClusterVersion::FIRST, max: ClusterVersion(2) };

    proptest! {
        #[test]
        fn builds_supporting_a_version_decode_the_same_value(value: (u64, String, Vec<u8>)) {
            let bytes = encode(ClusterVersion::FIRST, &value);
            let old = decode_in_range::<(u64, String, Vec<u8>)>(FIRST, &bytes);
            let new = decode_in_range(LATER, &bytes);
            prop_assert_eq!(&old, &new);
            prop_assert_eq!(old, Ok((ClusterVersion::FIRST, value)));
        }

        #[test]
        fn value_of_an_unsupported_version_is_rejected(value: (u64, String)) {
            let found = ClusterVersion(2);
            let bytes = encode(found, &value);
            let result = decode_in_range::<(u64, String)>(FIRST, &bytes);
            let unsupported = UnsupportedVersion { found, supported: FIRST };
            prop_assert_eq!(result, Err(VersionedDecodeError::Unsupported(unsupported)));
            prop_assert_eq!(decode_in_range(LATER, &bytes), Ok((found, value)));
        }
    }

    #[test]
    fn truncated_or_overlong_bytes_are_corrupt() {
        let bytes = encode(VersionRange::supported().max, &(7u64, "goal"));
        for end in 0..bytes.len() {
            assert!(decode::<(u64, String)>(&bytes[..end]).is_err(), "{end} bytes were read");
        }
        let longer = [&bytes[..], b"x"].concat();
        let result = decode::<(u64, String)>(&longer);
        assert_eq!(result, Err(VersionedDecodeError::Corrupt("1 bytes too many".to_owned())));
    }

    #[test]
    fn bytes_after_a_value_are_returned() {
        let bytes = [&encode(ClusterVersion::FIRST, &7u64)[..], b"raw"].concat();
        let decoded = take_from_bytes::<u64>(FIRST, &bytes);
        assert_eq!(decoded, Ok((ClusterVersion::FIRST, 7, &b"raw"[..])));
    }
}
