//! Cluster versions: the encodings that nodes write and can read.
//!
//! A cluster has one version. Every node encodes in that version whatever other nodes read, and
//! communicates only with nodes that can read it. The control group raises the version by one when every
//! member can write and read the next; the version never decreases. Until it is raised, every node can be
//! downgraded to the older build.
//!
//! Data on disk keeps the version in which it was written: a quiet topic may have data from the creation of
//! the cluster. So every build reads all earlier versions.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde::{Deserialize, Serialize};

/// A version of everything that nodes write for each other and for their own next start: log entries,
/// snapshots, peer frames, disk records, and the constants that take part in applying an entry.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ClusterVersion(pub u16);

/// The versions that a build can write and read, both ends included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VersionRange {
    /// The oldest version.
    pub min: ClusterVersion,
    /// The newest version.
    pub max: ClusterVersion,
}

/// A version that this build cannot read. The text says which build to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error(
    "cluster version {found} is not supported; this build supports {supported}: \
     run a build that supports {found}"
)]
pub struct UnsupportedVersion {
    /// The version of the data.
    pub found: ClusterVersion,
    /// The versions that this build reads.
    pub supported: VersionRange,
}

/// The versions that a node announces when it connects to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionOffer {
    /// The versions that its build supports.
    pub supported: VersionRange,
    /// The version it writes at present: the cluster version as far as it knows.
    pub agreed: ClusterVersion,
}

/// Why two nodes cannot exchange frames. The text says which node has to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionConflict {
    /// The peer announced no version: its build predates cluster versions.
    #[error(
        "the peer names no cluster version; this node supports {local_supported}: the peer's build is older \
         than cluster versions and cannot take part; run a newer build on the peer"
    )]
    NoPeerVersion {
        /// The versions that this node supports.
        local_supported: VersionRange,
    },
    /// The cluster version is newer than this node's build.
    #[error(
        "the cluster has version {cluster}; this build supports {local_supported}: \
         run a build that supports {cluster} on this node"
    )]
    ThisNodeIsOlder {
        /// The version that the peer writes.
        cluster: ClusterVersion,
        /// The versions that this node supports.
        local_supported: VersionRange,
    },
    /// The cluster version is newer than the peer's build.
    #[error(
        "the cluster has version {cluster}; the peer's build supports {peer_supported}: \
         run a build that supports {cluster} on the peer"
    )]
    PeerIsOlder {
        /// The version that this node writes.
        cluster: ClusterVersion,
        /// The versions that the peer supports.
        peer_supported: VersionRange,
    },
}

/// The version in which this node writes. Clones share it. It never decreases.
///
/// The node raises it after the control group has raised the cluster version and the node's data directory
/// has recorded that.
#[derive(Clone, Debug)]
pub struct AgreedVersion(Arc<AtomicU16>);

impl ClusterVersion {
    /// The first version. Data from before it carries no version and cannot be read.
    pub const FIRST: ClusterVersion = ClusterVersion(1);

    /// The newest version that this build supports. The features `next-version` and `version-after-next` add
    /// versions that no release has, so that tests can run a cluster of two builds and upgrade it twice.
    pub const NEWEST: ClusterVersion = ClusterVersion(if cfg!(feature = "version-after-next") {
        3
    } else if VersionRange::HAS_TEST_VERSIONS {
        2
    } else {
        1
    });

    /// Length of [`ClusterVersion::prefix`], in bytes.
    pub const PREFIX_BYTES: usize = 2;

    /// The next version.
    pub fn next(self) -> ClusterVersion {
        ClusterVersion(self.0.saturating_add(1))
    }

    /// The bytes that precede everything written in this version.
    pub fn prefix(self) -> [u8; Self::PREFIX_BYTES] {
        self.0.to_be_bytes()
    }

    /// Splits bytes into their version and the rest; `None` when they are too short to have a version.
    pub fn split_prefix(bytes: &[u8]) -> Option<(ClusterVersion, &[u8])> {
        let (version, body) = bytes.split_first_chunk::<{ Self::PREFIX_BYTES }>()?;
        Some((ClusterVersion(u16::from_be_bytes(*version)), body))
    }
}

impl VersionRange {
    /// The cluster versions in which this build takes part: the newest it knows and the previous one.
    /// Version 1 is the first and has no previous one.
    pub fn supported() -> VersionRange {
        VersionRange::for_newest(newest())
    }

    /// The versions in which this build reads its own data and applies entries. A build that retires a
    /// version must first rewrite the records on disk; no build does so yet.
    pub fn readable() -> VersionRange {
        VersionRange { min: ClusterVersion::FIRST, max: newest() }
    }

    /// Whether this build has versions above [`ClusterVersion::FIRST`] that no release has: the features
    /// `next-version` and `version-after-next` add them.
    pub const HAS_TEST_VERSIONS: bool = cfg!(feature = "next-version");

    /// The supported versions of a build whose newest version is `newest`.
    pub const fn for_newest(newest: ClusterVersion) -> VersionRange {
        let min = if newest.0 > 1 { newest.0 - 1 } else { 1 };
        VersionRange { min: ClusterVersion(min), max: newest }
    }

    /// A range of one version.
    pub fn single(version: ClusterVersion) -> VersionRange {
        VersionRange { min: version, max: version }
    }

    /// Whether the range contains a version.
    pub fn contains(self, version: ClusterVersion) -> bool {
        self.min <= version && version <= self.max
    }

    /// Whether the range is not empty and begins at [`ClusterVersion::FIRST`] or later.
    pub fn is_valid(self) -> bool {
        ClusterVersion::FIRST <= self.min && self.min <= self.max
    }

    /// Returns the version if the range contains it.
    ///
    /// # Errors
    /// [`UnsupportedVersion`] if it does not.
    pub fn ensure_contains(
        self,
        version: ClusterVersion,
    ) -> Result<ClusterVersion, UnsupportedVersion> {
        match self.contains(version) {
            true => Ok(version),
            false => Err(UnsupportedVersion { found: version, supported: self }),
        }
    }
}

fn newest() -> ClusterVersion {
    #[cfg(feature = "next-version")]
    if let Some(newest_of_caller) = NEWEST_OF_CALLER.get() {
        return newest_of_caller();
    }
    ClusterVersion::NEWEST
}

#[cfg(feature = "next-version")]
static NEWEST_OF_CALLER: std::sync::OnceLock<fn() -> ClusterVersion> = std::sync::OnceLock::new();

/// Lets `newest_of_caller` decide, at each call, which version is the newest that the build supports: in a
/// simulation, nodes of different builds share one program. Only the first call has an effect.
#[cfg(feature = "next-version")]
pub fn set_newest_version(newest_of_caller: fn() -> ClusterVersion) {
    let _first = NEWEST_OF_CALLER.set(newest_of_caller);
}

impl VersionOffer {
    /// The version in which this node and a peer write to each other. `peer` is `None` when the peer
    /// announced no version.
    ///
    /// The cluster version never decreases, so the higher of the two agreed versions is the more recent
    /// knowledge. A node that does not know of a raise yet writes in the higher version to peers that do. A
    /// node whose build does not support that version has to change: of two incompatible nodes it is always
    /// exactly one.
    ///
    /// # Errors
    /// [`VersionConflict`] when one node writes what the other cannot read.
    /// [`VersionConflict`] when one writes what the other cannot read.
    pub fn negotiate(self, peer: Option<VersionOffer>) -> Result<ClusterVersion, VersionConflict> {
        let local_supported = self.supported;
        let peer = peer
            .filter(|peer| peer.is_valid())
            .ok_or(VersionConflict::NoPeerVersion { local_supported })?;
        let (cluster, peer_supported) = (self.agreed.max(peer.agreed), peer.supported);
        if !local_supported.contains(cluster) {
            Err(VersionConflict::ThisNodeIsOlder { cluster, local_supported })
        } else if !peer_supported.contains(cluster) {
            Err(VersionConflict::PeerIsOlder { cluster, peer_supported })
        } else {
            Ok(cluster)
        }
    }

    fn is_valid(self) -> bool {
        self.supported.is_valid() && self.supported.contains(self.agreed)
    }
}

impl AgreedVersion {
    /// An agreed version that starts at `version`.
    pub fn new(version: ClusterVersion) -> AgreedVersion {
        AgreedVersion(Arc::new(AtomicU16::new(version.0)))
    }

    /// The version to write in at present.
    pub fn get(&self) -> ClusterVersion {
        ClusterVersion(self.0.load(Ordering::Acquire))
    }

    /// Raises the version to `version`; a lower one changes nothing.
    pub fn raise(&self, version: ClusterVersion) {
        self.0.fetch_max(version.0, Ordering::AcqRel);
    }

    /// The offer that this node sends when it connects to a peer.
    pub fn offer(&self) -> VersionOffer {
        VersionOffer { supported: VersionRange::supported(), agreed: self.get() }
    }
}

impl Default for AgreedVersion {
    /// The oldest version that this build supports: every build that may run in the same cluster can read
    /// it.
    fn default() -> AgreedVersion {
        AgreedVersion::new(VersionRange::supported().min)
    }
}

impl fmt::Display for VersionOffer {
    /// The form of headers: `MIN MAX AGREED`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VersionOffer { supported: VersionRange { min, max }, agreed } = self;
        write!(f, "{min} {max} {agreed}")
    }
}

/// Text that is not of the form `MIN MAX AGREED`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version offer; it must be three numbers, MIN MAX AGREED")]
pub struct InvalidVersionOffer(String);

impl FromStr for VersionOffer {
    type Err = InvalidVersionOffer;

    fn from_str(text: &str) -> Result<VersionOffer, InvalidVersionOffer> {
        let numbers: Result<Vec<u16>, _> = text.split(' ').map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[min, max, agreed]) => Ok(VersionOffer {
                supported: VersionRange { min: ClusterVersion(min), max: ClusterVersion(max) },
                agreed: ClusterVersion(agreed),
            }),
            _ => Err(InvalidVersionOffer(text.to_owned())),
        }
    }
}

impl fmt::Display for ClusterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.min),
            false => write!(f, "{} to {}", self.min, self.max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(min: u16, max: u16, agreed: u16) -> VersionOffer {
        let supported = VersionRange { min: ClusterVersion(min), max: ClusterVersion(max) };
        VersionOffer { supported, agreed: ClusterVersion(agreed) }
    }

    #[test]
    fn adjacent_builds_are_compatible_until_the_version_is_raised() {
        let (old, new) = (offer(1, 1, 1), offer(1, 2, 1));
        let first = Ok(ClusterVersion::FIRST);
        assert_eq!(old.negotiate(Some(new)), first);
        assert_eq!(new.negotiate(Some(old)), first);
        let raised = offer(1, 2, 2);
        let cluster = ClusterVersion(2);
        assert_eq!(
            new.negotiate(Some(raised)),
            Ok(cluster),
            "the node does not know of the raise yet"
        );
        let local_supported = old.supported;
        let result = old.negotiate(Some(raised));
        assert_eq!(result, Err(VersionConflict::ThisNodeIsOlder { cluster, local_supported }));
        let result = raised.negotiate(Some(old));
        assert_eq!(
            result,
            Err(VersionConflict::PeerIsOlder { cluster, peer_supported: local_supported })
        );
    }

    #[test]
    fn upgrade_that_skips_a_version_is_rejected() {
        let supported_for = |newest| VersionRange::for_newest(ClusterVersion(newest));
        assert_eq!(supported_for(1), offer(1, 1, 1).supported);
        assert_eq!(supported_for(2), offer(1, 2, 1).supported);
        assert_eq!(supported_for(3), offer(2, 3, 2).supported);
        let (first, third) = (offer(1, 1, 1), offer(2, 3, 2));
        assert!(
            first.negotiate(Some(third)).is_err(),
            "an upgrade that skips a release was accepted"
        );
    }

    #[test]
    fn exactly_one_of_two_incompatible_nodes_must_upgrade() {
        let offers = || {
            (1..5u16)
                .flat_map(|min| (min..5).map(move |max| (min, max)))
                .flat_map(|(min, max)| (min..=max).map(move |agreed| offer(min, max, agreed)))
        };
        for a in offers() {
            for b in offers() {
                let (one, other) = (a.negotiate(Some(b)), b.negotiate(Some(a)));
                assert_eq!(one.ok(), other.ok(), "{a:?} {b:?}");
                let must_upgrade = [one, other]
                    .iter()
                    .filter(|result| matches!(result, Err(VersionConflict::ThisNodeIsOlder { .. })))
                    .count();
                assert_eq!(must_upgrade, usize::from(one.is_err()), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn peer_without_a_version_is_rejected_with_an_explanation() {
        let message = offer(1, 2, 1).negotiate(None).unwrap_err().to_string();
        assert!(
            message.contains("names no cluster version") && message.contains("newer build"),
            "{message}"
        );
    }

    #[test]
    fn inconsistent_offer_is_treated_as_missing() {
        let expected = VersionConflict::NoPeerVersion { local_supported: offer(1, 2, 1).supported };
        for inconsistent in [offer(0, 0, 0), offer(2, 1, 1), offer(1, 2, 3)] {
            assert_eq!(offer(1, 2, 1).negotiate(Some(inconsistent)), Err(expected));
        }
    }

    #[test]
    fn agreed_version_never_decreases() {
        let agreed = AgreedVersion::new(ClusterVersion(3));
        agreed.raise(ClusterVersion(2));
        assert_eq!(agreed.get(), ClusterVersion(3));
        agreed.raise(ClusterVersion(4));
        assert_eq!(agreed.clone().get(), ClusterVersion(4));
    }

    #[test]
    fn offer_round_trips_through_text_and_malformed_text_is_rejected() {
        let wanted = offer(1, 3, 2);
        assert_eq!(wanted.to_string().parse(), Ok(wanted));
        for broken in ["", "1 2", "1 2 x", "1 2 2 2", "1 70000 1"] {
            assert!(broken.parse::<VersionOffer>().is_err(), "{broken:?}");
        }
    }

    #[test]
    fn prefix_round_trips_and_short_input_has_no_version() {
        let bytes = [&ClusterVersion(0x0102).prefix()[..], b"goal"].concat();
        assert_eq!(
            ClusterVersion::split_prefix(&bytes),
            Some((ClusterVersion(0x0102), &b"goal"[..]))
        );
        assert_eq!(ClusterVersion::split_prefix(b"x"), None);
    }
}
