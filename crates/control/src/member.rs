//! The profile of a node, and the identity of its data directory.

use pushonce_core::{Addresses, BuildInfo, HostPort, Member, MemberState, NodeId, Roles, unicode};
use serde::{Deserialize, Serialize};

/// A data directory: 128 random bits, drawn when it was created and kept in it. A node that restarts with
/// the same directory keeps its id; a wiped directory has another incarnation and gets a new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation(pub u128);

/// One process on a data directory. The directory counts them, on disk before anything else is done with
/// it. A copy is recognised because its count has already been seen by the cluster, or is lower.
///
/// One kind of copy is not recognised: a copy made while the last process of the directory ran, and started
/// after that process has ended for good, looks like the directory itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRun {
    /// The number of this start of the directory, from 1.
    pub count: u64,
    /// A random value drawn at that start, which distinguishes two processes with the same count.
    pub token: u64,
}

/// The description of a node, announced when it joins or starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The name, unique among the members: 1 to 64 bytes.
    pub name: String,
    /// The addresses at which others dial it: each a [`HostPort`], or empty if not offered. The peer
    /// address is never empty.
    pub addresses: Addresses,
    /// The region: at most 64 bytes; empty when not labelled.
    pub region: String,
    /// The zone: at most 64 bytes; empty when not labelled.
    pub zone: String,
    /// The roles: at least one.
    pub roles: Roles,
    /// The node's share of the shards relative to the weights of the others: 1 to [`Profile::WEIGHT_MAX`].
    pub weight: u32,
    /// The build of the node. The release has at most 64 bytes.
    pub build: BuildInfo,
}

/// Why a profile is invalid. The text states what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum InvalidProfile {
    /// The name is empty, too long, or has control or invisible characters.
    #[error(
        "the name must have 1 to {max} bytes and no control or invisible characters: choose another --name"
    )]
    Name {
        /// The maximum, in bytes.
        max: u32,
    },
    /// A region, zone or release is too long or has control or invisible characters.
    #[error(
        "the {field} may have at most {max} bytes and no control or invisible characters: choose another \
         --{field}"
    )]
    Label {
        /// `region`, `zone` or `release`.
        field: String,
        /// The maximum, in bytes.
        max: u32,
    },
    /// An address is malformed.
    #[error(
        "the {field} address {address:?} is malformed: it must be HOST:PORT with a DNS name, an IPv4 \
         address or an IPv6 address in brackets; choose another --advertise"
    )]
    Address {
        /// `peer`, `grpc`, `http`, `https` or `quic`.
        field: String,
        /// The address, truncated to [`HostPort::HOST_BYTES_MAX`] characters.
        address: String,
    },
    /// The node has no role.
    #[error("a node needs a role: --roles core, edge, or core,edge")]
    Roles,
    /// The weight is zero or above the maximum.
    #[error("the weight must be 1 to {max}")]
    Weight {
        /// The maximum.
        max: u32,
    },
}

impl Profile {
    /// Maximum weight of a node. A node has 128 points on the ring for each unit of weight, and every node
    /// computes all points at each change of members: ten times the weight would be noticeable.
    pub const WEIGHT_MAX: u32 = 100;
    const NAME_BYTES_MAX: u32 = 64;

    /// Checks the profile. Whether the name is free is checked by the control group.
    ///
    /// # Errors
    /// [`InvalidProfile`] with the field to change.
    pub fn validate(&self) -> Result<(), InvalidProfile> {
        let max = Self::NAME_BYTES_MAX;
        if self.name.is_empty() || !is_valid_label(&self.name, max) {
            return Err(InvalidProfile::Name { max });
        }
        let labels =
            [("region", &self.region), ("zone", &self.zone), ("release", &self.build.release)];
        for (field, label) in labels {
            if !is_valid_label(label, max) {
                return Err(InvalidProfile::Label { field: field.to_owned(), max });
            }
        }
        self.validate_addresses()?;
        if !self.roles.core && !self.roles.edge {
            return Err(InvalidProfile::Roles);
        }
        if !(1..=Self::WEIGHT_MAX).contains(&self.weight) {
            return Err(InvalidProfile::Weight { max: Self::WEIGHT_MAX });
        }
        Ok(())
    }

    fn validate_addresses(&self) -> Result<(), InvalidProfile> {
        let Addresses { peer, grpc, http, https, quic } = &self.addresses;
        for (field, address) in
            [("peer", peer), ("grpc", grpc), ("http", http), ("https", https), ("quic", quic)]
        {
            let unused = field != "peer" && address.is_empty();
            if !unused && address.parse::<HostPort>().is_err() {
                let address = address.chars().take(HostPort::HOST_BYTES_MAX).collect();
                return Err(InvalidProfile::Address { field: field.to_owned(), address });
            }
        }
        Ok(())
    }

    /// Whether the cluster knows a member exactly as this profile describes it.
    pub fn describes(&self, member: &Member) -> bool {
        *member == self.clone().into_member(member.id, member.state)
    }

    pub(crate) fn into_member(self, id: NodeId, state: MemberState) -> Member {
        let Profile { name, addresses, region, zone, roles, weight, build } = self;
        Member { id, name, addresses, region, zone, roles, weight, state, build }
    }
}

fn is_valid_label(text: &str, bytes_max: u32) -> bool {
    text.len() <= bytes_max as usize && !text.contains(unicode::is_unfit_for_names)
}

#[cfg(test)]
pub(crate) mod tests {
    use pushonce_core::VersionRange;

    use super::*;

    /// A valid profile.
    pub(crate) fn profile(name: &str) -> Profile {
        Profile {
            name: name.to_owned(),
            addresses: Addresses { peer: format!("{name}:7091"), ..Addresses::default() },
            region: String::new(),
            zone: String::new(),
            roles: Roles::default(),
            weight: 1,
            build: BuildInfo { release: "0.1.0".to_owned(), supported: VersionRange::supported() },
        }
    }

    #[test]
    fn valid_profile_is_accepted() {
        assert_eq!(profile("n1").validate(), Ok(()));
    }

    #[test]
    fn invalid_profile_is_rejected_with_the_field_to_change() {
        let rejection = |change: fn(&mut Profile)| {
            let mut profile = profile("n1");
            change(&mut profile);
            profile.validate().unwrap_err().to_string()
        };
        assert!(rejection(|p| p.name.clear()).contains("--name"));
        assert!(rejection(|p| p.name = "x".repeat(65)).contains("--name"));
        assert!(rejection(|p| p.name = "a\u{202e}".to_owned()).contains("--name"));
        assert!(rejection(|p| p.zone = "a\n".to_owned()).contains("--zone"));
        assert!(rejection(|p| p.addresses.peer.clear()).contains("peer address"));
        assert!(rejection(|p| p.addresses.quic = "q".repeat(256)).contains("quic address"));
        assert!(rejection(|p| p.addresses.peer = "a b:7091".to_owned()).contains("--advertise"));
        assert!(
            rejection(|p| p.addresses.http = "http://a:7080".to_owned()).contains("http address")
        );
        assert!(rejection(|p| p.addresses.https = "a".to_owned()).contains("https address"));
        assert!(rejection(|p| p.roles = Roles { core: false, edge: false }).contains("--roles"));
        assert!(rejection(|p| p.weight = 0).contains("1 to 100"));
        assert!(rejection(|p| p.weight = u32::MAX).contains("1 to 100"));
    }
}
