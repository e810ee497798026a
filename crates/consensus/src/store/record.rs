//! How a value lies on disk: four bytes of checksum, then the value.
//!
//! The checksum begins with the group, so that a record of one group never passes for another's.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::GroupId;

/// Encodes a value as a record of a group.
pub(crate) fn seal<T: Serialize>(group: GroupId, value: &T) -> io::Result<Bytes> {
    seal_with(group, value, &[])
}

/// As [`seal`], with bytes behind the value.
pub(crate) fn seal_with<T: Serialize>(group: GroupId, value: &T, data: &[u8]) -> io::Result<Bytes> {
    let mut record = BytesMut::with_capacity(128 + data.len());
    record.put_u32_le(0);
    let record = postcard::to_io(value, record.writer()).map_err(io::Error::other)?;
    let mut record = record.into_inner();
    record.extend_from_slice(data);
    let sum = checksum(group, &record[4..]);
    record[..4].copy_from_slice(&sum.to_le_bytes());
    Ok(record.freeze())
}

/// Decodes a record, or says that it is damaged.
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
    postcard::take_from_bytes(value)
        .map_err(|error| damaged(&format!("a record is not readable: {error}")))
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

    #[test]
    fn a_record_comes_back_as_it_was() {
        let record = seal(GroupId(3), &(7u64, "goal".to_owned())).unwrap();
        assert_eq!(open::<(u64, String)>(GroupId(3), &record).unwrap(), (7, "goal".to_owned()));
    }

    #[test]
    fn a_record_with_any_byte_changed_is_never_served() {
        let record = seal(GroupId(3), &b"one nil".to_vec()).unwrap();
        for at in 0..record.len() {
            let mut damaged = record.to_vec();
            damaged[at] ^= 0x10;
            assert!(open::<Vec<u8>>(GroupId(3), &damaged).is_err(), "byte {at}");
        }
        assert!(open::<Vec<u8>>(GroupId(3), &record[..2]).is_err());
    }

    #[test]
    fn a_record_of_another_group_is_not_taken() {
        let record = seal(GroupId(3), &1u64).unwrap();
        assert!(open::<u64>(GroupId(4), &record).is_err());
    }
}
