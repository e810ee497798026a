//! Admits QUIC connections to a lane.

use std::rc::Rc;

use pushonce_quic::{Acceptor, Connection};
use tokio::sync::OwnedSemaphorePermit;

use super::session::Session;
use crate::lane::LaneState;
use crate::metrics::TransportKind;

/// Makes each admitted connection a session of the lane.
pub(crate) struct SessionAcceptor {
    lane: Rc<LaneState>,
}

impl SessionAcceptor {
    pub(crate) fn new(lane: Rc<LaneState>) -> SessionAcceptor {
        SessionAcceptor { lane }
    }
}

impl Acceptor for SessionAcceptor {
    type Permit = OwnedSemaphorePermit;
    type Handler = Session;

    fn is_accepting(&self) -> bool {
        !self.lane.draining.is_cancelled()
    }

    fn admit(&self) -> Option<OwnedSemaphorePermit> {
        self.lane.acquire_permit()
    }

    fn open(&self, connection: Rc<Connection>, permit: OwnedSemaphorePermit) -> Session {
        Session::new(self.lane.clone(), connection, permit)
    }

    fn on_refused(&self) {
        self.lane.metrics.for_transport(TransportKind::Quic).refused.increment(1);
    }
}
