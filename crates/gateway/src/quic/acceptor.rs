//! Admits QUIC connections to a lane.

use std::net::SocketAddr;
use std::rc::Rc;

use pushonce_quic::{Acceptor, Connection};

use super::session::Session;
use crate::http::page_gate::PageGate;
use crate::lane::{LaneState, SessionPermit};
use crate::metrics::TransportKind;

/// Makes each admitted connection a session of the lane.
pub(crate) struct SessionAcceptor {
    lane: Rc<LaneState>,
    webtransport: PageGate,
}

impl SessionAcceptor {
    pub(crate) fn new(lane: Rc<LaneState>, webtransport: PageGate) -> SessionAcceptor {
        SessionAcceptor { lane, webtransport }
    }
}

impl Acceptor for SessionAcceptor {
    type Permit = SessionPermit;
    type Handler = Session;

    fn is_accepting(&self) -> bool {
        !self.lane.draining.is_cancelled()
    }

    fn admit(&self, client: SocketAddr) -> Option<SessionPermit> {
        self.lane.admit_session(client.ip())
    }

    fn open(&self, connection: Rc<Connection>, permit: SessionPermit) -> Session {
        Session::new(self.lane.clone(), self.webtransport.clone(), connection, permit)
    }

    fn on_refused(&self) {
        self.lane.metrics.for_transport(TransportKind::Quic).refused.increment(1);
    }
}
