//! The request of a node to join a cluster, and the identity that it receives.

use pushonce_core::{Addresses, BuildInfo, ClusterId, NodeId, Roles, VersionRange};

use super::read::{decode_cluster_id, decode_node};
use crate::InvalidField;
use crate::field::decode_version;
use crate::pb::peer::v1 as pb;

/// A node that requests to become a member and to get a node id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// The random number of the data directory: a repeated request with the same one gets the same node id.
    pub incarnation: u128,
    /// The identity stored in the data directory, if any.
    pub previous_identity: Option<MemberIdentity>,
    /// The name that the operator gave the node.
    pub name: String,
    /// The addresses of the node.
    pub addresses: Addresses,
    /// The region label; empty if not set.
    pub region: String,
    /// The zone label; empty if not set.
    pub zone: String,
    /// The roles of the node.
    pub roles: Roles,
    /// The share of shards that the node gets, relative to the weights of the other members.
    pub weight: u32,
    /// Number of starts with this data directory, including this process.
    pub run: u64,
    /// The random number of this process.
    pub run_token: u64,
    /// Whether the node is starting and does not use its data directory yet.
    pub starting: bool,
    /// The release and the supported cluster versions.
    pub build: BuildInfo,
}

/// The identity of a node: its cluster and its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberIdentity {
    /// The cluster of the node.
    pub cluster: ClusterId,
    /// The permanent id of the node.
    pub node: NodeId,
}

impl From<JoinRequest> for pb::JoinRequest {
    fn from(join: JoinRequest) -> pb::JoinRequest {
        let cluster_id =
            join.previous_identity.map(|identity| identity.cluster.0.to_be_bytes().to_vec());
        pb::JoinRequest {
            incarnation: join.incarnation.to_be_bytes().to_vec().into(),
            cluster_id: cluster_id.unwrap_or_default().into(),
            node_id: join.previous_identity.map_or(0, |identity| identity.node.0),
            name: join.name,
            addresses: Some(join.addresses.into()),
            region: join.region,
            zone: join.zone,
            roles: join.roles.to_string(),
            weight: join.weight,
            run: join.run,
            run_token: join.run_token,
            starting: join.starting,
            release: join.build.release,
            version_min: join.build.supported.min.0.into(),
            version_max: join.build.supported.max.0.into(),
            ..pb::JoinRequest::default()
        }
    }
}

impl TryFrom<pb::JoinRequest> for JoinRequest {
    type Error = InvalidField;

    fn try_from(join: pb::JoinRequest) -> Result<JoinRequest, InvalidField> {
        let incarnation = join.incarnation.as_ref().try_into();
        let incarnation =
            incarnation.map_err(|_| InvalidField::new("incarnation", "must have 16 bytes"))?;
        let previous_identity = match decode_node(join.node_id) {
            None => None,
            Some(node) => Some(MemberIdentity {
                cluster: decode_cluster_id("cluster_id", &join.cluster_id)?,
                node,
            }),
        };
        let addresses = join.addresses.ok_or_else(|| InvalidField::missing("addresses"))?;
        Ok(JoinRequest {
            incarnation: u128::from_be_bytes(incarnation),
            previous_identity,
            name: join.name,
            addresses: addresses.into(),
            region: join.region,
            zone: join.zone,
            roles: join
                .roles
                .parse()
                .map_err(|error| InvalidField::new("roles", format!("is invalid: {error}")))?,
            weight: join.weight,
            run: join.run,
            run_token: join.run_token,
            starting: join.starting,
            build: BuildInfo {
                release: join.release,
                supported: VersionRange {
                    min: decode_version("version_min", join.version_min)?,
                    max: decode_version("version_max", join.version_max)?,
                },
            },
        })
    }
}

impl From<MemberIdentity> for pb::JoinResponse {
    fn from(identity: MemberIdentity) -> pb::JoinResponse {
        pb::JoinResponse {
            cluster_id: identity.cluster.0.to_be_bytes().to_vec().into(),
            node_id: identity.node.0,
            ..pb::JoinResponse::default()
        }
    }
}

impl TryFrom<pb::JoinResponse> for MemberIdentity {
    type Error = InvalidField;

    fn try_from(joined: pb::JoinResponse) -> Result<MemberIdentity, InvalidField> {
        Ok(MemberIdentity {
            cluster: decode_cluster_id("cluster_id", &joined.cluster_id)?,
            node: decode_node(joined.node_id).ok_or_else(|| InvalidField::missing("node_id"))?,
        })
    }
}

impl From<Addresses> for pb::Addresses {
    fn from(addresses: Addresses) -> pb::Addresses {
        let Addresses { peer, grpc, http, quic } = addresses;
        pb::Addresses { peer, grpc, http, quic }
    }
}

impl From<pb::Addresses> for Addresses {
    fn from(addresses: pb::Addresses) -> Addresses {
        let pb::Addresses { peer, grpc, http, quic } = addresses;
        Addresses { peer, grpc, http, quic }
    }
}
