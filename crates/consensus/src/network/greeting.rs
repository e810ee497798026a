//! The versions in the metadata of a stream: what each side supports and writes.

use pushonce_core::{ClusterVersion, VersionConflict, VersionOffer};
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::wire::VERSIONS;

/// Adds an offer to the metadata.
pub(super) fn offer(metadata: &mut MetadataMap, offer: VersionOffer) {
    // Digits and spaces are always a header value.
    if let Ok(value) = AsciiMetadataValue::try_from(offer.to_string()) {
        metadata.insert(VERSIONS, value);
    }
}

/// The version of the frames to and from a peer.
///
/// # Errors
/// [`VersionConflict`] when the peer names no versions, or one side writes what the other cannot read.
pub(super) fn agree(
    ours: VersionOffer,
    metadata: &MetadataMap,
) -> Result<ClusterVersion, VersionConflict> {
    #[cfg(feature = "planted-bugs")]
    if crate::planted::greets_everybody() {
        return Ok(ours.agreed);
    }
    ours.check(offered(metadata))
}

/// What a peer offers; `None` for a peer that names no versions.
fn offered(metadata: &MetadataMap) -> Option<VersionOffer> {
    metadata.get(VERSIONS)?.to_str().ok()?.parse().ok()
}
