//! The versions in the metadata of a stream: what each side supports and writes.

use pushonce_core::VersionOffer;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::wire::VERSIONS;

/// Adds an offer to the metadata.
pub(super) fn offer(metadata: &mut MetadataMap, offer: VersionOffer) {
    // Digits and spaces are always a header value.
    if let Ok(value) = AsciiMetadataValue::try_from(offer.to_string()) {
        metadata.insert(VERSIONS, value);
    }
}

/// What a peer offers; `None` for a peer that names no versions.
pub(super) fn offered(metadata: &MetadataMap) -> Option<VersionOffer> {
    metadata.get(VERSIONS)?.to_str().ok()?.parse().ok()
}
