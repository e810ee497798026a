//! How a value is written in a cluster version: the version, then the value in postcard.
//!
//! The version decides how the rest is read, so it never changes its shape. What cannot be read is an
//! error that says why: a reader that guessed would end with another state than the others.

use std::io::{self, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{ClusterVersion, UnsupportedVersion, VersionRange};

/// Bytes that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Too short to have a version.
    #[error("{0} bytes are too few to carry a cluster version")]
    Unversioned(usize),
    /// Written in a version that this build does not read.
    #[error(transparent)]
    Version(#[from] UnsupportedVersion),
    /// Not what is written in that version.
    #[error("damaged: {0}")]
    Damaged(String),
}

/// The value as it is written in `version`.
///
/// # Panics
/// Never for the types of this workspace: postcard refuses only sequences and maps of unknown length.
pub fn encode<T: Serialize + ?Sized>(version: ClusterVersion, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(version, value, &mut bytes).expect("a growing buffer takes every value of known length");
    bytes
}

/// Writes what [`encode`] gives.
///
/// # Errors
/// The writer's own.
pub fn write<T: Serialize + ?Sized>(
    version: ClusterVersion,
    value: &T,
    to: &mut (impl Write + ?Sized),
) -> io::Result<()> {
    to.write_all(&version.prefix())?;
    let to = postcard::to_io(value, to).map_err(io::Error::other)?;
    to.write_all(added_by(version))
}

/// Reads a value that was written in a version that this build reads, with nothing behind it.
///
/// # Errors
/// [`Unreadable`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(ClusterVersion, T), Unreadable> {
    decode_within(VersionRange::READABLE, bytes)
}

/// As [`decode`], by a build that reads `readable`.
///
/// # Errors
/// [`Unreadable`].
pub fn decode_within<T: DeserializeOwned>(
    readable: VersionRange,
    bytes: &[u8],
) -> Result<(ClusterVersion, T), Unreadable> {
    match take(readable, bytes)? {
        (version, value, []) => Ok((version, value)),
        (_, _, rest) => Err(Unreadable::Damaged(format!("{} bytes too many", rest.len()))),
    }
}

/// Reads a value and gives back what follows it.
///
/// # Errors
/// [`Unreadable`].
pub fn take<T: DeserializeOwned>(
    readable: VersionRange,
    bytes: &[u8],
) -> Result<(ClusterVersion, T, &[u8]), Unreadable> {
    let (version, body) =
        ClusterVersion::split(bytes).ok_or(Unreadable::Unversioned(bytes.len()))?;
    readable.accept(version)?;
    let (value, rest) =
        postcard::take_from_bytes(body).map_err(|error| Unreadable::Damaged(error.to_string()))?;
    let rest = rest.strip_prefix(added_by(version));
    let rest = rest.ok_or_else(|| {
        Unreadable::Damaged(format!("a field that version {version} added is missing"))
    })?;
    Ok((version, value, rest))
}

/// What stands behind every value of a version. No release adds anything; the versions that
/// features add have one more field, so that a build without it cannot read it by chance.
fn added_by(version: ClusterVersion) -> &'static [u8] {
    match cfg!(feature = "next-version") && version > ClusterVersion::FIRST {
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
        fn builds_that_support_a_version_read_the_same(value: (u64, String, Vec<u8>)) {
            let bytes = encode(ClusterVersion::FIRST, &value);
            let old = decode_within::<(u64, String, Vec<u8>)>(FIRST, &bytes);
            let new = decode_within(LATER, &bytes);
            prop_assert_eq!(&old, &new);
            prop_assert_eq!(old, Ok((ClusterVersion::FIRST, value)));
        }

        #[test]
        fn a_build_reads_nothing_of_a_version_it_does_not_support(value: (u64, String)) {
            let found = ClusterVersion(2);
            let bytes = encode(found, &value);
            let refused = decode_within::<(u64, String)>(FIRST, &bytes);
            let why = UnsupportedVersion { found, supported: FIRST };
            prop_assert_eq!(refused, Err(Unreadable::Version(why)));
            prop_assert_eq!(decode_within(LATER, &bytes), Ok((found, value)));
        }
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_damaged() {
        let bytes = encode(VersionRange::SUPPORTED.max, &(7u64, "goal"));
        for end in 0..bytes.len() {
            assert!(decode::<(u64, String)>(&bytes[..end]).is_err(), "{end} bytes were read");
        }
        let longer = [&bytes[..], b"x"].concat();
        let refused = decode::<(u64, String)>(&longer);
        assert_eq!(refused, Err(Unreadable::Damaged("1 bytes too many".to_owned())));
    }

    #[test]
    fn what_follows_a_value_is_given_back() {
        let bytes = [&encode(ClusterVersion::FIRST, &7u64)[..], b"raw"].concat();
        let taken = take::<u64>(FIRST, &bytes);
        assert_eq!(taken, Ok((ClusterVersion::FIRST, 7, &b"raw"[..])));
    }
}
