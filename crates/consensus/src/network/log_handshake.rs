//! The log handshake in the metadata of a call: what each side knows of both logs.
//!
//! It follows the greeting, in both directions, and is checked before anything else of the call is used. See
//! [`rollback`](super::rollback).

use std::fmt::Display;
use std::str::FromStr;

use pushonce_core::{ClusterVersion, NodeId};
use pushonce_peer::DialError;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};

use super::rollback::{LogHandshake, RollbackDetector, WritesClaim};

/// The log handshake of the sender.
const LOG_KEY: &str = "pushonce-log";
/// The writes of the receiver that the sender knows of; absent when there are none.
const KNOWN_WRITES_KEY: &str = "pushonce-known-writes";
/// The signature of the sender over its log handshake; absent when its store has no key.
const LOG_PROOF_KEY: &str = "pushonce-log-proof";
/// The signature of the receiver over these writes; absent when the sender has none.
const KNOWN_WRITES_PROOF_KEY: &str = "pushonce-known-writes-proof";

/// A response whose greeting and log handshake were checked.
pub(super) struct CheckedResponse<T> {
    /// The version in which the two nodes write to each other.
    pub(super) version: ClusterVersion,
    pub(super) handshake: LogHandshake,
    pub(super) body: T,
}

impl RollbackDetector {
    /// Adds the state of this node's log, and what this node knows of the peer's log.
    pub(super) fn insert_handshake(&self, peer: NodeId, metadata: &mut MetadataMap) {
        let handshake = self.handshake();
        insert(metadata, LOG_KEY, handshake);
        if let Some(proof) = self.prove(handshake.writes) {
            insert(metadata, LOG_PROOF_KEY, proof);
        }
        self.insert_claim(peer, metadata);
    }

    fn insert_claim(&self, peer: NodeId, metadata: &mut MetadataMap) {
        let Some(WritesClaim { known_writes, proof }) = self.claim_about(peer) else { return };
        insert(metadata, KNOWN_WRITES_KEY, known_writes);
        if let Some(proof) = proof {
            insert(metadata, KNOWN_WRITES_PROOF_KEY, proof);
        }
    }

    /// Compares both logs with what each node knows of the other's, before the caller's requests are
    /// processed.
    pub(super) fn check_caller(
        &self,
        from: NodeId,
        metadata: &MetadataMap,
    ) -> Result<LogHandshake, Status> {
        let rejected = |reason: String| Status::failed_precondition(reason);
        self.check_own_log(read_claim(metadata)).map_err(|error| rejected(error.to_string()))?;
        if let Some(reason) = self.fence().reason() {
            return Err(rejected(reason));
        }
        let handshake: Option<LogHandshake> = read(metadata, LOG_KEY);
        let handshake =
            handshake.ok_or_else(|| Status::invalid_argument(format!("{LOG_KEY} is missing")))?;
        self.check_peer(from, handshake, read(metadata, LOG_PROOF_KEY)).map_err(|error| {
            let mut status = rejected(error.to_string());
            self.insert_claim(from, status.metadata_mut());
            status
        })?;
        Ok(handshake)
    }

    /// Checks the peer's handshake of both logs, before anything that it sends is used. A rejection may
    /// show that the log of this node is older than the peer knows it to be.
    pub(super) fn check_response<T>(
        &self,
        peer: NodeId,
        response: Result<(ClusterVersion, Response<T>), DialError>,
    ) -> Result<CheckedResponse<T>, DialError> {
        let aborted = |reason: String| DialError::Failed(Status::aborted(reason));
        if let Err(DialError::Failed(status)) = &response {
            self.check_own_log(read_claim(status.metadata()))
                .map_err(|error| aborted(error.to_string()))?;
        }
        let (version, response) = response?;
        let metadata = response.metadata();
        self.check_own_log(read_claim(metadata)).map_err(|error| aborted(error.to_string()))?;
        let handshake: Option<LogHandshake> = read(metadata, LOG_KEY);
        let handshake =
            handshake.ok_or_else(|| aborted(format!("{peer} sent no log handshake")))?;
        let proof = read(metadata, LOG_PROOF_KEY);
        self.check_peer(peer, handshake, proof).map_err(|error| aborted(error.to_string()))?;
        Ok(CheckedResponse { version, handshake, body: response.into_inner() })
    }
}

fn insert(metadata: &mut MetadataMap, key: &'static str, value: impl Display) {
    // Numbers and colons are always a valid header value.
    if let Ok(value) = value.to_string().parse() {
        metadata.insert(key, value);
    }
}

fn read_claim(metadata: &MetadataMap) -> Option<WritesClaim> {
    let known_writes = read(metadata, KNOWN_WRITES_KEY)?;
    Some(WritesClaim { known_writes, proof: read(metadata, KNOWN_WRITES_PROOF_KEY) })
}

fn read<T: FromStr>(metadata: &MetadataMap, key: &str) -> Option<T> {
    metadata.get(key)?.to_str().ok()?.parse().ok()
}
