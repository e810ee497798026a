//! What the cluster knows about a join token: everything but its secret.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{NodeId, Timestamp};

/// The id of a join token, for operators: the first eight bytes of its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JoinTokenId(pub u64);

/// The SHA-256 of the secret of a join token: what the cluster stores. It does not allow to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenHash(pub [u8; 32]);

/// The state of a join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenStatus {
    /// When it expires.
    pub expires: Timestamp,
    /// The node that joined with it. A token is used once.
    pub used_by: Option<NodeId>,
}

impl JoinTokenHash {
    /// The id of the token.
    pub fn id(&self) -> JoinTokenId {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        JoinTokenId(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Display for JoinTokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for JoinTokenId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<JoinTokenId, Self::Err> {
        u64::from_str_radix(text, 16).map(JoinTokenId)
    }
}
