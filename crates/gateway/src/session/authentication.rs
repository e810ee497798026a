//! The caller of a session, and the requests that wait while its token is verified.

use std::collections::VecDeque;

use pushonce_auth::Caller;
use pushonce_proto::client::{ClientCommand, ClientRequest, InvalidFrame};

/// Maximum number of requests that wait for the result of an authentication. Few do: while a credential is verified, a
/// session is not read ([`ReceiveState::Waiting`](super::ReceiveState)). The request in the query of a WebSocket waits,
/// and the ends of subscriptions whose QUIC stream the client stopped.
const WAITING_MAX: usize = 64;

/// Maximum payload bytes of these requests. Nobody knows yet whether the client has a valid token, so little
/// is held for it.
const WAITING_BYTES_MAX: usize = 8 << 10;

/// The caller of a session with a token, or whose token is being verified. Sessions without a token, which may
/// be most, have none of it.
#[derive(Default)]
pub(super) struct SessionAccess {
    /// `None` until the first token was verified.
    pub(super) caller: Option<Caller>,
    pending: Option<PendingAuthentication>,
}

/// An authentication without a result.
pub(super) struct PendingAuthentication {
    /// The id of its request.
    pub(super) id: Option<u64>,
    /// The requests that wait, oldest first.
    pub(super) waiting: VecDeque<Result<ClientRequest, InvalidFrame>>,
    /// Payload bytes of the waiting requests.
    bytes: usize,
}

/// A request that cannot wait.
pub(super) struct TooManyWaiting;

impl SessionAccess {
    /// Whether requests have to wait.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Begins an authentication. Requests wait from now on.
    pub(super) fn begin(&mut self, id: Option<u64>) {
        self.pending = Some(PendingAuthentication { id, waiting: VecDeque::new(), bytes: 0 });
    }

    /// Holds a request until the authentication has a result.
    ///
    /// # Errors
    /// [`TooManyWaiting`] when as many requests wait as are allowed.
    pub(super) fn hold(
        &mut self,
        request: Result<ClientRequest, InvalidFrame>,
    ) -> Result<(), TooManyWaiting> {
        let bytes = payload_bytes(&request);
        match &mut self.pending {
            Some(pending)
                if pending.waiting.len() < WAITING_MAX
                    && pending.bytes + bytes <= WAITING_BYTES_MAX =>
            {
                pending.bytes += bytes;
                pending.waiting.push_back(request);
                Ok(())
            }
            _ => Err(TooManyWaiting),
        }
    }

    /// Ends the authentication, and returns it with the requests that waited.
    pub(super) fn end(&mut self) -> Option<PendingAuthentication> {
        self.pending.take()
    }

    /// Whether `new` is a renewal of the present caller, or there is none yet. A session keeps its subject: its
    /// subscriptions were made for it.
    pub(super) fn accepts(&self, new: &Caller) -> bool {
        self.caller.as_ref().is_none_or(|present| {
            (present.issuer(), present.subject()) == (new.issuer(), new.subject())
        })
    }
}

fn payload_bytes(request: &Result<ClientRequest, InvalidFrame>) -> usize {
    match request {
        Ok(ClientRequest { command: ClientCommand::Publish(publish), .. }) => publish.payload.len(),
        Ok(ClientRequest { command: ClientCommand::Authenticate { token }, .. }) => {
            token.secret().len()
        }
        // A topic, or the text of an error: some hundred bytes.
        _ => 0,
    }
}
