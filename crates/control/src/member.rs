//! What a node says of itself, and how its data directory is known again.

use pushonce_core::{Addresses, BuildInfo, HostPort, Member, MemberState, NodeId, Roles};
use serde::{Deserialize, Serialize};

/// A data directory: 128 random bits drawn when it was made, and kept in it. A node that comes back
/// with the same one is the same node; a wiped one has another, and so gets another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation(pub u128);

/// One process on a data directory. The directory counts them, on disk before anything else is done
/// with it, so that an old copy of a directory is told from the directory by a count that the cluster
/// has heard already, or a lower one.
///
/// What a copy cannot be told by: one made while the last process of the directory ran, and started
/// after that has ended for good, looks like the directory itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRun {
    /// Which start of the directory it is: from 1.
    pub count: u64,
    /// Drawn at that start: two that count the same are told apart.
    pub token: u64,
}

/// What a node says of itself when it joins or starts again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Unique among the members: 1 to 64 bytes.
    pub name: String,
    /// Where others dial it: each a [`HostPort`], or empty where nobody dials; the peer address is never
    /// empty.
    pub addresses: Addresses,
    /// 64 bytes at most; empty when not labelled.
    pub region: String,
    /// 64 bytes at most; empty when not labelled.
    pub zone: String,
    /// At least one.
    pub roles: Roles,
    /// Its share of the shards beside the others' weights: 1 to [`Profile::WEIGHT_MAX`].
    pub weight: u32,
    /// What it runs. The release has 64 bytes at most.
    pub build: BuildInfo,
}

/// A profile that cannot be taken. Says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum InvalidProfile {
    /// Nothing to call it by, or too much.
    #[error("the name must have 1 to {max} bytes and no control character: choose another --name")]
    Name {
        /// In bytes.
        max: u32,
    },
    /// A region, zone or release that is too long or has control characters.
    #[error("the {field} may have {max} bytes and no control character: choose another --{field}")]
    Label {
        /// `region`, `zone` or `release`.
        field: String,
        /// In bytes.
        max: u32,
    },
    /// An address that nobody can dial.
    #[error(
        "the {field} address {address:?} cannot be dialled: it must be HOST:PORT with a DNS name, an \
         IPv4 address or an IPv6 address in brackets; choose another --advertise"
    )]
    Address {
        /// Which of the four.
        field: String,
        /// What it was, cut to [`HostPort::HOST_BYTES_MAX`] characters.
        address: String,
    },
    /// Would do nothing.
    #[error("a node needs a role: --roles core, edge, or core,edge")]
    Roles,
    /// Would weigh nothing, or fill the ring.
    #[error("the weight must be 1 to {max}")]
    Weight {
        /// The largest.
        max: u32,
    },
}

impl Profile {
    /// The heaviest node. A node has 128 points of the ring for each unit of weight, and every node
    /// lists them all at each change of members: ten times as much would be felt.
    pub const WEIGHT_MAX: u32 = 100;
    const NAME_BYTES_MAX: u32 = 64;

    /// Says what is wrong, if anything is. Whether the name is free only the cluster knows.
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
        let Addresses { peer, grpc, http, quic } = &self.addresses;
        for (field, address) in [("peer", peer), ("grpc", grpc), ("http", http), ("quic", quic)] {
            let unused = field != "peer" && address.is_empty();
            if !unused && address.parse::<HostPort>().is_err() {
                let address = address.chars().take(HostPort::HOST_BYTES_MAX).collect();
                return Err(InvalidProfile::Address { field: field.to_owned(), address });
            }
        }
        Ok(())
    }

    /// Whether a member is known just as it describes itself here.
    pub fn describes(&self, member: &Member) -> bool {
        *member == self.clone().into_member(member.id, member.state)
    }

    pub(crate) fn into_member(self, id: NodeId, state: MemberState) -> Member {
        let Profile { name, addresses, region, zone, roles, weight, build } = self;
        Member { id, name, addresses, region, zone, roles, weight, state, build }
    }
}

fn is_valid_label(text: &str, bytes_max: u32) -> bool {
    text.len() <= bytes_max as usize && !text.contains(char::is_control)
}

#[cfg(test)]
pub(crate) mod tests {
    use pushonce_core::VersionRange;

    use super::*;

    /// A node that everybody would take.
    pub(crate) fn profile(name: &str) -> Profile {
        Profile {
            name: name.to_owned(),
            addresses: Addresses { peer: format!("{name}:7091"), ..Addresses::default() },
            region: String::new(),
            zone: String::new(),
            roles: Roles::default(),
            weight: 1,
            build: BuildInfo { release: "0.1.0".to_owned(), supported: VersionRange::SUPPORTED },
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
        assert!(rejection(|p| p.zone = "a\n".to_owned()).contains("--zone"));
        assert!(rejection(|p| p.addresses.peer.clear()).contains("peer address"));
        assert!(rejection(|p| p.addresses.quic = "q".repeat(256)).contains("quic address"));
        assert!(rejection(|p| p.addresses.peer = "a b:7091".to_owned()).contains("--advertise"));
        assert!(
            rejection(|p| p.addresses.http = "http://a:7080".to_owned()).contains("http address")
        );
        assert!(rejection(|p| p.roles = Roles { core: false, edge: false }).contains("--roles"));
        assert!(rejection(|p| p.weight = 0).contains("1 to 100"));
        assert!(rejection(|p| p.weight = u32::MAX).contains("1 to 100"));
    }
}
