//! How a value lies on disk: four bytes of checksum, then the value behind its cluster version.
//!
//! The checksum begins with the group, so that a record of one group never passes for another's.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use pushonce_core::versioned::{self, Unreadable};
use pushonce_core::{ClusterVersion, VersionRange};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::GroupId;

/// Encodes a value as a record of a group, in a version.
pub(crate) fn seal<T: Serialize>(
    group: GroupId,
    version: ClusterVersion,
    value: &T,
) -> io::Result<Bytes> {
    seal_with(group, version, value, &[])
}

/// As [`seal`], with bytes behind the value.
pub(crate) fn seal_with<T: Serialize>(
    group: GroupId,
    version: ClusterVersion,
    value: &T,
    data: &[u8],
) -> io::Result<Bytes> {
    let mut record = BytesMut::with_capacity(128 + data.len());
    record.put_u32_le(0);
    let mut record = record.writer();
    versioned::write(version, value, &mut record)?;
    let mut record = record.into_inner();
    record.extend_from_slice(data);
    let sum = checksum(group, &record[4..]);
    record[..4].copy_from_slice(&sum.to_le_bytes());
    Ok(record.freeze())
}

/// Decodes a record. A damaged one is an error of the kind `InvalidData`; one of a version that this
/// build does not support is not damaged, and its error holds the [`Unreadable`].
pub(crate) fn open<T: DeserializeOwned>(group: GroupId, record: &[u8]) -> io::Result<T> {
    open_with(group, record).map(|(value, _)| value)
}

/// As [`open`], with the bytes behind the value.
pub(crate) fn open_with<T: DeserializeOwned>(
    group: GroupId,
    record: &[u8],
) -> io::Result<(T, &[u8])> {
    let damaged = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let (sum, value) = record
        .split_first_chunk::<4>()
        .ok_or_else(|| damaged("a record is shorter than its checksum"))?;
    if checksum(group, value) != u32::from_le_bytes(*sum) {
        return Err(damaged("the checksum of a record does not match"));
    }
    match versioned::take(VersionRange::READABLE, value) {
        Ok((_, value, rest)) => Ok((value, rest)),
        Err(why @ Unreadable::Version(_)) => Err(io::Error::other(why)),
        Err(why) => Err(damaged(&format!("a record cannot be read: {why}"))),
    }
}

/// Whether an error says that a record, a snapshot or an entry is of a version that this build does not
/// support.
pub(crate) fn unsupported(error: &io::Error) -> Option<&Unreadable> {
    let why = error.get_ref()?.downcast_ref::<Unreadable>()?;
    matches!(why, Unreadable::Version(_)).then_some(why)
}

fn checksum(group: GroupId, value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&group.0.to_le_bytes());
    hasher.update(value);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: ClusterVersion = VersionRange::SUPPORTED.max;

    #[test]
    fn a_record_of_a_version_that_is_not_supported_is_not_called_damaged() {
        let record = seal(GroupId(3), VERSION.next(), &7u64).unwrap();
        let why = open::<u64>(GroupId(3), &record).unwrap_err();
        assert_ne!(why.kind(), io::ErrorKind::InvalidData, "a damaged record would be dropped");
        assert!(unsupported(&why).is_some(), "{why}");
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let record = seal(GroupId(3), VERSION, &(7u64, "goal".to_owned())).unwrap();
        assert_eq!(open::<(u64, String)>(GroupId(3), &record).unwrap(), (7, "goal".to_owned()));
    }

    #[test]
    fn a_record_with_any_byte_changed_is_never_served() {
        let record = seal(GroupId(3), VERSION, &b"one nil".to_vec()).unwrap();
        for at in 0..record.len() {
            let mut damaged = record.to_vec();
            damaged[at] ^= 0x10;
            assert!(open::<Vec<u8>>(GroupId(3), &damaged).is_err(), "byte {at}");
        }
        assert!(open::<Vec<u8>>(GroupId(3), &record[..2]).is_err());
    }

    #[test]
    fn a_record_of_another_group_is_not_taken() {
        let record = seal(GroupId(3), VERSION, &1u64).unwrap();
        assert!(open::<u64>(GroupId(4), &record).is_err());
    }
}
