//! Why a peer is rejected or cannot be called.

use std::error::Error;
use std::time::Duration;

use pushonce_core::{ClusterId, NodeId, SpiffeId, VersionConflict};
use pushonce_proto::status::{describe, error_chain};
use tonic::{Code, Status};

use crate::CertificateRejection;

/// The greeting of a peer is not acceptable. Each message names what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    /// The metadata of the call or response has no greeting.
    #[error("the peer sent no greeting: it is not a Pushonce node or runs an older build")]
    Missing,
    /// The peer belongs to another cluster.
    #[error("this is cluster {own_cluster}, not {peer_cluster}; correct the dialled address")]
    WrongCluster {
        /// The cluster of this node.
        own_cluster: ClusterId,
        /// The cluster of the peer.
        peer_cluster: ClusterId,
    },
    /// The caller expects another node at this address.
    #[error("this is {me}, not {expected}; correct the address of {expected}")]
    WrongNode {
        /// This node.
        me: NodeId,
        /// The node that the caller expects.
        expected: NodeId,
    },
    /// Another node answers at the address of the expected one.
    #[error("{node} answers at the address of {expected}; correct the address of {expected}")]
    UnexpectedPeer {
        /// The node that answers.
        node: NodeId,
        /// The node that was dialled.
        expected: NodeId,
    },
    /// The caller was removed: it may have missed or lost votes.
    #[error(
        "{node} was removed from the cluster, and ids are not reused: join as a new node, with an \
         empty directory"
    )]
    RemovedNode {
        /// The caller.
        node: NodeId,
    },
    /// The caller claims to be another node than the one of its certificate.
    #[error(
        "the caller claims to be {node}, but {}; give each node its own certificate",
        match .certified {
            Some(certified) => format!("its certificate is that of {certified}"),
            None => "it has no certificate".to_owned(),
        }
    )]
    Uncertified {
        /// The node that the caller claims to be.
        node: NodeId,
        /// The node of its certificate.
        certified: Option<SpiffeId>,
    },
    /// One node writes what the other cannot read.
    #[error("{conflict}")]
    Version {
        /// The peer.
        node: NodeId,
        /// Which node has to change.
        conflict: VersionConflict,
    },
}

/// The reason why a call of a peer has no response that may be used.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No address of the peer is known.
    #[error("no address of {0} is known")]
    UnknownAddress(NodeId),
    /// No connection was made.
    #[error("{0}")]
    Unreachable(String),
    /// The peer did not answer in time. The call may have arrived.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The certificate of the peer is not that of the dialled node.
    #[error(transparent)]
    Certificate(#[from] CertificateRejection),
    /// Another node answered, or the versions do not overlap.
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    /// The call failed; `FAILED_PRECONDITION` when the peer rejected this node.
    #[error("{}", describe(.0))]
    Failed(Status),
}

impl DialError {
    /// The error of a connection attempt.
    pub(crate) fn from_transport(error: tonic::transport::Error) -> DialError {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(inner) = cause {
            if let Some(rejection) = inner.downcast_ref::<CertificateRejection>() {
                return rejection.clone().into();
            }
            cause = inner.source();
        }
        DialError::Unreachable(error_chain(&error))
    }

    /// The versions of both nodes, when they do not overlap.
    pub fn version_conflict(&self) -> Option<VersionConflict> {
        match self {
            DialError::Greeting(GreetingError::Version { conflict, .. }) => Some(*conflict),
            _ => None,
        }
    }

    /// Whether one of the nodes rejected the other. An operator has to change something.
    pub fn is_rejection(&self) -> bool {
        match self {
            DialError::Greeting(_) | DialError::Certificate(_) => true,
            DialError::Failed(status) => status.code() == Code::FailedPrecondition,
            _ => false,
        }
    }
}
