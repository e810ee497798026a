//! The versions in the metadata of a stream: those that each side supports and writes.

use pushonce_core::{ClusterVersion, FailPoint, VersionConflict, VersionOffer};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::wire::VERSIONS_HEADER;

/// Adds an offer to the metadata.
pub(super) fn insert_offer(metadata: &mut MetadataMap, offer: VersionOffer) {
    // Digits and spaces are always a valid header value.
    if let Ok(value) = AsciiMetadataValue::try_from(offer.to_string()) {
        metadata.insert(VERSIONS_HEADER, value);
    }
}

/// The version of the frames to and from a peer.
///
/// # Errors
/// [`VersionConflict`] when the peer sends no versions, or one side writes what the other cannot read.
pub(super) fn negotiate_version(
    ours: VersionOffer,
    metadata: &MetadataMap,
) -> Result<ClusterVersion, VersionConflict> {
    if FailPoint::HandshakeUnchecked.is_active() {
        return Ok(ours.agreed);
    }
    ours.negotiate(read_offer(metadata))
}

/// The offer of a peer; `None` for a peer that sends no versions.
fn read_offer(metadata: &MetadataMap) -> Option<VersionOffer> {
    metadata.get(VERSIONS_HEADER)?.to_str().ok()?.parse().ok()
}
