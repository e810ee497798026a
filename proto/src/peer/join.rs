//! How a node asks to come in.

use pushonce_core::{Addresses, Build, ClusterId, NodeId, Roles, VersionRange};

use super::read::{cluster, node};
use crate::InvalidField;
use crate::field::version;
use crate::pb::peer::v1 as pb;

/// A node that asks for an id and a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// Drawn when its data directory was made: a repeat with the same one gets the same id.
    pub incarnation: u128,
    /// What its data directory says it is already.
    pub was: Option<Joined>,
    /// The operator's name for it.
    pub name: String,
    /// Where to reach it.
    pub addresses: Addresses,
    /// Empty when not labelled.
    pub region: String,
    /// Empty when not labelled.
    pub zone: String,
    /// What it does.
    pub roles: Roles,
    /// Its share of the shards, beside the others' weights.
    pub weight: u32,
    /// How often its data directory was started, this process included.
    pub run: u64,
    /// Drawn by this process.
    pub run_token: u64,
    /// Nothing of the directory is in use yet.
    pub starting: bool,
    /// What it runs.
    pub build: Build,
}

/// Who a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// In which cluster.
    pub cluster: ClusterId,
    /// Under which id, for ever.
    pub node: NodeId,
}

impl From<Join> for pb::JoinRequest {
    fn from(join: Join) -> pb::JoinRequest {
        let cluster_id = join.was.map(|was| was.cluster.0.to_be_bytes().to_vec());
        pb::JoinRequest {
            incarnation: join.incarnation.to_be_bytes().to_vec().into(),
            cluster_id: cluster_id.unwrap_or_default().into(),
            node_id: join.was.map_or(0, |was| was.node.0),
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

impl TryFrom<pb::JoinRequest> for Join {
    type Error = InvalidField;

    fn try_from(join: pb::JoinRequest) -> Result<Join, InvalidField> {
        let incarnation = join.incarnation.as_ref().try_into();
        let incarnation =
            incarnation.map_err(|_| InvalidField::new("incarnation", "must have 16 bytes"))?;
        let was = match node(join.node_id) {
            None => None,
            Some(node) => Some(Joined { cluster: cluster("cluster_id", &join.cluster_id)?, node }),
        };
        let addresses = join.addresses.ok_or_else(|| InvalidField::missing("addresses"))?;
        Ok(Join {
            incarnation: u128::from_be_bytes(incarnation),
            was,
            name: join.name,
            addresses: addresses.into(),
            region: join.region,
            zone: join.zone,
            roles: join
                .roles
                .parse()
                .map_err(|why| InvalidField::new("roles", format!("is wrong: {why}")))?,
            weight: join.weight,
            run: join.run,
            run_token: join.run_token,
            starting: join.starting,
            build: Build {
                release: join.release,
                supported: VersionRange {
                    min: version("version_min", join.version_min)?,
                    max: version("version_max", join.version_max)?,
                },
            },
        })
    }
}

impl From<Joined> for pb::JoinResponse {
    fn from(joined: Joined) -> pb::JoinResponse {
        pb::JoinResponse {
            cluster_id: joined.cluster.0.to_be_bytes().to_vec().into(),
            node_id: joined.node.0,
            ..pb::JoinResponse::default()
        }
    }
}

impl TryFrom<pb::JoinResponse> for Joined {
    type Error = InvalidField;

    fn try_from(joined: pb::JoinResponse) -> Result<Joined, InvalidField> {
        Ok(Joined {
            cluster: cluster("cluster_id", &joined.cluster_id)?,
            node: node(joined.node_id).ok_or_else(|| InvalidField::missing("node_id"))?,
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
