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

use super::rollback::{LogHandshake, RollbackDetector};

/// The log handshake of the sender.
const LOG_KEY: &str = "pushonce-log";
/// The writes of the receiver that the sender knows of; absent when there are none.
const KNOWN_WRITES_KEY: &str = "pushonce-known-writes";

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
        insert(metadata, LOG_KEY, self.handshake());
        if let Some(known_writes) = self.known_writes(peer) {
            insert(metadata, KNOWN_WRITES_KEY, known_writes);
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
        self.check_own_log(read(metadata, KNOWN_WRITES_KEY))
            .map_err(|error| rejected(error.to_string()))?;
        if let Some(reason) = self.fence().reason() {
            return Err(rejected(reason));
        }
        let handshake: Option<LogHandshake> = read(metadata, LOG_KEY);
        let handshake =
            handshake.ok_or_else(|| Status::invalid_argument(format!("{LOG_KEY} is missing")))?;
        self.check_peer(from, handshake).map_err(|error| {
            let mut status = rejected(error.to_string());
            if let Some(known_writes) = self.known_writes(from) {
                insert(status.metadata_mut(), KNOWN_WRITES_KEY, known_writes);
            }
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
            self.check_own_log(read(status.metadata(), KNOWN_WRITES_KEY))
                .map_err(|error| aborted(error.to_string()))?;
        }
        let (version, response) = response?;
        let metadata = response.metadata();
        self.check_own_log(read(metadata, KNOWN_WRITES_KEY))
            .map_err(|error| aborted(error.to_string()))?;
        let handshake: Option<LogHandshake> = read(metadata, LOG_KEY);
        let handshake =
            handshake.ok_or_else(|| aborted(format!("{peer} sent no log handshake")))?;
        self.check_peer(peer, handshake).map_err(|error| aborted(error.to_string()))?;
        Ok(CheckedResponse { version, handshake, body: response.into_inner() })
    }
}

fn insert(metadata: &mut MetadataMap, key: &'static str, value: impl Display) {
    // Numbers and colons are always a valid header value.
    if let Ok(value) = value.to_string().parse() {
        metadata.insert(key, value);
    }
}

fn read<T: FromStr>(metadata: &MetadataMap, key: &str) -> Option<T> {
    metadata.get(key)?.to_str().ok()?.parse().ok()
}
