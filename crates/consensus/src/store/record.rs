//! The format of a record: four bytes of checksum, then the value with its cluster version.
//!
//! The checksum covers the group, so that a record of one group is never accepted for another.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use pushonce_core::versioned::{self, VersionedDecodeError};
use pushonce_core::{ClusterVersion, VersionRange};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::GroupId;

/// Encodes a value as a record of a group, in a version.
pub(crate) fn encode_record<T: Serialize>(
    group: GroupId,
    version: ClusterVersion,
    value: &T,
) -> io::Result<Bytes> {
    encode_record_with_data(group, version, value, &[])
}

/// Like [`encode_record`], with data after the value.
pub(crate) fn encode_record_with_data<T: Serialize>(
    group: GroupId,
    version: ClusterVersion,
    value: &T,
    data: &[u8],
) -> io::Result<Bytes> {
    let mut record = BytesMut::with_capacity(128 + data.len());
    record.put_u32_le(0);
    let mut record = record.writer();
    versioned::encode_into(version, value, &mut record)?;
    let mut record = record.into_inner();
    record.extend_from_slice(data);
    let sum = checksum(group, &record[4..]);
    record[..4].copy_from_slice(&sum.to_le_bytes());
    Ok(record.freeze())
}

/// Decodes a record. Damage is an error of kind `InvalidData`. A record of a version that this build does not
/// support is not damaged: its error contains the [`VersionedDecodeError`].
pub(crate) fn decode_record<T: DeserializeOwned>(group: GroupId, record: &[u8]) -> io::Result<T> {
    decode_record_with_data(group, record).map(|(value, _)| value)
}

/// Like [`decode_record`], with the data after the value.
pub(crate) fn decode_record_with_data<T: DeserializeOwned>(
    group: GroupId,
    record: &[u8],
) -> io::Result<(T, &[u8])> {
    let damaged = |message: &str| io::Error::new(io::ErrorKind::InvalidData, message.to_owned());
    let (sum, value) = record
        .split_first_chunk::<4>()
        .ok_or_else(|| damaged("a record is shorter than its checksum"))?;
    if checksum(group, value) != u32::from_le_bytes(*sum) {
        return Err(damaged("the checksum of a record does not match"));
    }
    match versioned::take_from_bytes(VersionRange::readable(), value) {
        Ok((_, value, rest)) => Ok((value, rest)),
        Err(error @ VersionedDecodeError::Unsupported(_)) => Err(io::Error::other(error)),
        Err(error) => Err(damaged(&format!("a record cannot be read: {error}"))),
    }
}

/// The error of a record, snapshot or entry of a version that this build does not support, if it is one.
pub(crate) fn unsupported_version(error: &io::Error) -> Option<&VersionedDecodeError> {
    let unreadable = error.get_ref()?.downcast_ref::<VersionedDecodeError>()?;
    matches!(unreadable, VersionedDecodeError::Unsupported(_)).then_some(unreadable)
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

    const VERSION: ClusterVersion = ClusterVersion::NEWEST;

    #[test]
    fn unsupported_record_version_is_not_reported_as_damage() {
        let record = encode_record(GroupId(3), VERSION.next(), &7u64).unwrap();
        let error = decode_record::<u64>(GroupId(3), &record).unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::InvalidData, "a damaged record would be dropped");
        assert!(unsupported_version(&error).is_some(), "{error}");
    }

    #[test]
    fn record_round_trips() {
        let record = encode_record(GroupId(3), VERSION, &(7u64, "goal".to_owned())).unwrap();
        assert_eq!(
            decode_record::<(u64, String)>(GroupId(3), &record).unwrap(),
            (7, "goal".to_owned())
        );
    }

    #[test]
    fn record_with_any_flipped_bit_is_rejected() {
        let record = encode_record(GroupId(3), VERSION, &b"one nil".to_vec()).unwrap();
        for at in 0..record.len() {
            let mut damaged = record.to_vec();
            damaged[at] ^= 0x10;
            assert!(decode_record::<Vec<u8>>(GroupId(3), &damaged).is_err(), "byte {at}");
        }
        assert!(decode_record::<Vec<u8>>(GroupId(3), &record[..2]).is_err());
    }

    #[test]
    fn record_of_another_group_is_rejected() {
        let record = encode_record(GroupId(3), VERSION, &1u64).unwrap();
        assert!(decode_record::<u64>(GroupId(4), &record).is_err());
    }
}
