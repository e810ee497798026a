//! The greeting: what each side of a call says about itself in the metadata.
//!
//! | key | value |
//! |---|---|
//! | `pushonce-cluster` | the cluster of the sender |
//! | `pushonce-from` | the sender |
//! | `pushonce-to` | the node that the sender expects |
//! | `pushonce-versions` | `MIN MAX AGREED`: the versions that the sender supports, and the one it writes |

use std::fmt::Display;
use std::str::FromStr;

use pushonce_core::{
    AgreedVersion, ClusterId, ClusterVersion, FailPoint, NodeId, VersionConflict, VersionOffer,
};
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::GreetingError;

const CLUSTER_KEY: &str = "pushonce-cluster";
const FROM_KEY: &str = "pushonce-from";
const TO_KEY: &str = "pushonce-to";
const VERSIONS_KEY: &str = "pushonce-versions";

/// A gRPC channel to a peer that adds this node's greeting to each call. Clones share the connection.
pub type PeerChannel = InterceptedService<Channel, GreetingInterceptor>;

/// Adds the greeting to each call of a [`PeerChannel`].
#[derive(Clone, Debug)]
pub struct GreetingInterceptor {
    pub(crate) local: LocalNode,
    pub(crate) to: NodeId,
}

/// What a node says about itself. Clones share the agreed version.
#[derive(Clone, Debug)]
pub(crate) struct LocalNode {
    pub(crate) cluster: ClusterId,
    pub(crate) id: NodeId,
    pub(crate) agreed_version: AgreedVersion,
}

impl Interceptor for GreetingInterceptor {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.local.greet(self.to, request.metadata_mut());
        Ok(request)
    }
}

impl LocalNode {
    /// Adds the greeting for a peer.
    pub(crate) fn greet(&self, to: NodeId, metadata: &mut MetadataMap) {
        insert(metadata, CLUSTER_KEY, self.cluster);
        insert(metadata, FROM_KEY, self.id);
        insert(metadata, TO_KEY, to);
        insert(metadata, VERSIONS_KEY, self.agreed_version.offer());
    }

    /// Checks the greeting of a peer, except for its versions. Returns the node that the peer claims to be.
    pub(crate) fn check_identity(&self, metadata: &MetadataMap) -> Result<NodeId, GreetingError> {
        let own_cluster = self.cluster;
        let peer_cluster = read(metadata, CLUSTER_KEY).ok_or(GreetingError::Missing)?;
        if peer_cluster != own_cluster {
            return Err(GreetingError::WrongCluster { own_cluster, peer_cluster });
        }
        let expected = read(metadata, TO_KEY).ok_or(GreetingError::Missing)?;
        if expected != self.id {
            return Err(GreetingError::WrongNode { me: self.id, expected });
        }
        read(metadata, FROM_KEY).ok_or(GreetingError::Missing)
    }

    /// The version in which this node and the peer write to each other.
    pub(crate) fn negotiate(
        &self,
        node: NodeId,
        metadata: &MetadataMap,
    ) -> Result<ClusterVersion, GreetingError> {
        if FailPoint::HandshakeUnchecked.is_active() {
            return Ok(self.agreed_version.get());
        }
        let negotiated = self.agreed_version.offer().negotiate(read(metadata, VERSIONS_KEY));
        negotiated.map_err(|conflict| GreetingError::Version { node, conflict })
    }

    /// The version conflict behind a rejection, which carries the versions of the peer.
    pub(crate) fn conflict_of_rejection(&self, metadata: &MetadataMap) -> Option<VersionConflict> {
        let theirs: VersionOffer = read(metadata, VERSIONS_KEY)?;
        self.agreed_version.offer().negotiate(Some(theirs)).err()
    }
}

fn insert(metadata: &mut MetadataMap, key: &'static str, value: impl Display) {
    // Letters, digits and spaces are always a valid header value.
    if let Ok(value) = value.to_string().parse() {
        metadata.insert(key, value);
    }
}

fn read<T: FromStr>(metadata: &MetadataMap, key: &str) -> Option<T> {
    metadata.get(key)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use pushonce_core::VersionRange;

    use super::*;

    fn node(cluster: u128, id: u64) -> LocalNode {
        let agreed_version = AgreedVersion::default();
        LocalNode { cluster: ClusterId(cluster), id: NodeId(id), agreed_version }
    }

    fn greeting(cluster: u128, from: u64, to: u64) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        node(cluster, from).greet(NodeId(to), &mut metadata);
        metadata
    }

    #[test]
    fn greeting_is_read_as_written() {
        let metadata = greeting(7, 1, 2);
        let me = node(7, 2);
        assert_eq!(me.check_identity(&metadata), Ok(NodeId(1)));
        assert_eq!(me.negotiate(NodeId(1), &metadata), Ok(VersionRange::supported().min));
    }

    #[test]
    fn greeting_for_another_cluster_or_node_is_rejected_with_what_to_change() {
        let me = node(7, 2);
        let text = |metadata| me.check_identity(&metadata).unwrap_err().to_string();
        let other = text(greeting(8, 1, 2));
        assert!(other.contains("not 00000000000000000000000000000008"), "{other}");
        assert_eq!(text(greeting(7, 1, 3)), "this is n2, not n3; correct the address of n3");
        assert_eq!(me.check_identity(&MetadataMap::new()), Err(GreetingError::Missing));
        let mut without_sender = greeting(7, 1, 2);
        without_sender.remove(FROM_KEY);
        assert_eq!(me.check_identity(&without_sender), Err(GreetingError::Missing));
    }

    #[test]
    fn incompatible_versions_are_rejected_with_the_reason() {
        let me = node(7, 2);
        let mut metadata = greeting(7, 1, 2);
        let text =
            |metadata: &MetadataMap| me.negotiate(NodeId(1), metadata).unwrap_err().to_string();
        metadata.remove(VERSIONS_KEY);
        assert!(text(&metadata).contains("older than cluster versions"), "{}", text(&metadata));
        assert_eq!(me.conflict_of_rejection(&metadata), None);
        let only = VersionRange::single(VersionRange::supported().max.next());
        let newer = VersionOffer { supported: only, agreed: only.max };
        insert(&mut metadata, VERSIONS_KEY, newer);
        assert!(text(&metadata).contains("on this node"), "{}", text(&metadata));
        assert!(me.conflict_of_rejection(&metadata).is_some());
    }
}
