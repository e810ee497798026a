//! The name of a node in its certificate.

use std::fmt;
use std::str::FromStr;

use crate::{ClusterId, NodeId};

/// The SPIFFE id of a node, `spiffe://CLUSTER/node/ID`: a URI among the alternative names of its certificate.
/// Any certificate authority can issue it, and those of SPIRE do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    /// The cluster: the trust domain, as 32 hexadecimal digits.
    pub cluster: ClusterId,
    /// The node, 1 or higher.
    pub node: NodeId,
}

/// Text that is not a [`SpiffeId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not the name of a node: expected spiffe://CLUSTER/node/ID, with the cluster id as 32 \
     lowercase hexadecimal digits and the node id as a number from 1"
)]
pub struct InvalidSpiffeId {
    text: String,
}

/// Maximum length of an id in an error: the text may come from a peer.
const QUOTED_CHARS_MAX: usize = 100;

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    /// Accepts only the text that [`SpiffeId`] prints: two names of one node would be two identities.
    fn from_str(text: &str) -> Result<SpiffeId, InvalidSpiffeId> {
        let parsed = text.strip_prefix("spiffe://").and_then(|rest| {
            let (cluster, node) = rest.split_once("/node/")?;
            Some(SpiffeId { cluster: cluster.parse().ok()?, node: NodeId(node.parse().ok()?) })
        });
        let is_canonical = |id: &SpiffeId| id.node != NodeId(0) && id.to_string() == text;
        parsed
            .filter(is_canonical)
            .ok_or_else(|| InvalidSpiffeId { text: text.chars().take(QUOTED_CHARS_MAX).collect() })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/node/{}", self.cluster, self.node.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_parsed_as_printed() {
        let id = SpiffeId { cluster: ClusterId(0xab), node: NodeId(3) };
        assert_eq!(id.to_string(), "spiffe://000000000000000000000000000000ab/node/3");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn every_other_text_is_rejected() {
        let cluster = ClusterId(0xab).to_string();
        let upper = cluster.to_uppercase();
        for text in [
            String::new(),
            "spiffe://".to_owned(),
            format!("spiffe://{cluster}"),
            format!("spiffe://{cluster}/node/"),
            format!("spiffe://{cluster}/node/0"),
            format!("spiffe://{cluster}/node/03"),
            format!("spiffe://{cluster}/node/+3"),
            format!("spiffe://{cluster}/node/3/"),
            format!("spiffe://{cluster}/node/3?a"),
            format!("spiffe://{cluster}/node/18446744073709551616"),
            format!("spiffe://{cluster}:80/node/3"),
            format!("spiffe://{cluster}/nodes/3"),
            format!("spiffe://{upper}/node/3"),
            "spiffe://ab/node/3".to_owned(),
            format!("SPIFFE://{cluster}/node/3"),
            format!("https://{cluster}/node/3"),
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?}");
        }
    }
}
