//! The versions in the metadata of a stream: what each side supports and writes.

use pushonce_core::{ClusterVersion, FailPoint, VersionConflict, VersionOffer};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::wire::VERSIONS_HEADER;

/// Adds an offer to the metadata.
pub(super) fn insert_offer(metadata: &mut MetadataMap, offer: VersionOffer) {
    // Digits and spaces are always a header value.
    if let Ok(value) = AsciiMetadataValue::try_from(offer.to_string()) {
        metadata.insert(VERSIONS_HEADER, value);
    }
}

/// The version of the frames to and from a peer.
///
/// # Errors
/// [`VersionConflict`] when the peer names no versions, or one side writes what the other cannot read.
pub(super) fn negotiate_version(
    ours: VersionOffer,
    metadata: &MetadataMap,
) -> Result<ClusterVersion, VersionConflict> {
    if FailPoint::HandshakeUnchecked.is_active() {
        return Ok(ours.agreed);
    }
    ours.negotiate(read_offer(metadata))
}

/// What a peer offers; `NoFault` for a peer that names no versions.
fn read_offer(metadata: &MetadataMap) -> Option<VersionOffer> {
    metadata.get(VERSIONS_HEADER)?.to_str().ok()?.parse().ok()
}
