//! The messages to which the next deltas apply.

use std::collections::HashMap;
use std::sync::Arc;

use pushonce_core::{Message, Publish, Topic};
use pushonce_proto::client::MessageDelta;

use crate::delta::{self, InvalidDelta};

/// The last message of each topic with deltas that this session received.
#[derive(Clone, Debug, Default)]
pub(super) struct DeltaBases(HashMap<Topic, Arc<Message>>);

/// Why a delta could not be applied: an error of the server.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeltaError {
    #[error("received a delta without the previous message")]
    MissingBase,
    #[error(transparent)]
    Invalid(#[from] InvalidDelta),
}

impl DeltaBases {
    /// Forgets every message: a new session sends the first message of each topic whole.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Records a received message, also one that was already delivered.
    pub(super) fn set(&mut self, topic: Topic, message: Arc<Message>) {
        self.0.insert(topic, message);
    }

    /// The whole message of a delta.
    ///
    /// # Errors
    /// [`DeltaError`] when the previous message is not known, or the delta does not apply to it.
    pub(super) fn apply(
        &self,
        topic: &Topic,
        message_delta: MessageDelta,
    ) -> Result<Message, DeltaError> {
        let MessageDelta { position, time, key, delta } = message_delta;
        let base = self.0.get(topic).filter(|base| base.position.next() == position);
        let base = base.ok_or(DeltaError::MissingBase)?;
        let payload = delta::apply(&base.payload, &delta, Publish::PAYLOAD_BYTES_CAP)?;
        let content_type = base.content_type.clone();
        Ok(Message { position, time, content_type, key, payload: payload.into() })
    }
}
