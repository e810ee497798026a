//! A session with an open control stream, over raw QUIC or WebTransport: it reads requests.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use pushonce_listener::{Holding, MESSAGE_TIMEOUT};
use pushonce_proto::client::{ClientCommand, ClientRequest, Encoding};
use pushonce_proto::{close, delimited};
use pushonce_quic::{Connection, StreamId, StreamRead};

use super::carrier::Carrier;
use super::http3_output::Http3Output;
use super::sink::QuicSink;
use super::transport::QuicTransport;
use crate::driver::SessionDriver;
use crate::lane::LaneState;
use crate::session::ReceiveState;
use crate::{partial, work};

/// The state of a session with an open control stream.
pub(super) struct OpenSession {
    pub(super) driver: Rc<SessionDriver<QuicTransport>>,
    pub(super) control: StreamId,
    encoding: Encoding,
    decoder: delimited::FrameDecoder,
    /// Bytes that the client may send before they are read, and that are read at once.
    window_bytes: u32,
    /// The decoder may hold complete frames, because the turn of the session was over or its credential is being verified.
    has_unread: bool,
    /// The frame that is only half received, if there is one, and when it must be complete.
    partial: Option<(Holding, Instant)>,
    /// Until then the session is not read.
    paused_until: Option<Instant>,
    /// The client finished its side of the control stream.
    is_peer_finished: bool,
}

impl OpenSession {
    /// Registers the session. `early`: the bytes of the control stream that were read already.
    pub(super) fn start(
        lane: &Rc<LaneState>,
        connection: &Rc<Connection>,
        control: StreamId,
        carrier: Rc<Carrier>,
        http3: Option<Rc<RefCell<Http3Output>>>,
        early: &[u8],
    ) -> OpenSession {
        let bytes_out = lane.metrics.for_transport(carrier.kind).bytes_out.clone();
        let sink = QuicSink::new(connection.clone(), control, bytes_out, carrier.may_reset);
        let encoding = carrier.encoding();
        let transport = QuicTransport::new(connection.clone(), sink, carrier, http3);
        // The bound is set anew before each frame.
        let mut decoder = delimited::FrameDecoder::new(0);
        decoder.push(early);
        let address = connection.remote_address().ip().into();
        let driver = SessionDriver::start(lane.clone(), transport, address);
        OpenSession {
            driver,
            control,
            encoding,
            decoder,
            window_bytes: super::UNAUTHENTICATED_RECEIVE_WINDOW_BYTES,
            has_unread: !early.is_empty(),
            partial: None,
            paused_until: None,
            is_peer_finished: false,
        }
    }

    /// Makes progress and returns whether the session is over.
    pub(super) fn drive(&mut self) -> bool {
        let sink = self.driver.transport().sink.clone();
        loop {
            let has_room = sink.borrow_mut().flush();
            if has_room {
                self.driver.on_writable();
            }
            let stopped_topics = sink.borrow_mut().take_stopped_topics();
            for topic in stopped_topics {
                let command = ClientCommand::Unsubscribe { topic };
                let _ = self.driver.on_request(Ok(ClientRequest { id: None, command }));
            }
            if self.is_peer_finished || !sink.borrow().is_open() {
                return true;
            }
            let is_congested = sink.borrow().is_congested();
            let is_waiting = self.driver.receive_state() == ReceiveState::Waiting;
            let may_read = !is_congested && !is_waiting && self.paused_until.is_none();
            if !may_read || !self.read_control() {
                return false;
            }
            if self.has_unread {
                // The other sessions of the lane run first.
                self.driver.transport().connection.wake_handler();
                return false;
            }
        }
    }

    /// When [`OpenSession::on_deadline`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let complete_by = self.partial.as_ref().map(|(_, complete_by)| *complete_by);
        [complete_by, self.paused_until].into_iter().flatten().min()
    }

    pub(super) fn on_deadline(&mut self) {
        let now = Instant::now();
        self.paused_until = self.paused_until.filter(|&until| until > now);
        if self.partial.as_ref().is_some_and(|(_, complete_by)| *complete_by <= now) {
            self.partial = None;
            let (close, reason) = partial::timeout();
            self.driver.close(close, reason);
        }
        self.driver.transport().connection.wake_handler();
    }

    /// Reads from the control stream and returns whether bytes or its end were read.
    fn read_control(&mut self) -> bool {
        if std::mem::take(&mut self.has_unread) {
            self.decode_frames();
            return true;
        }
        self.widen_window();
        let connection = &self.driver.transport().connection;
        match connection.read(self.control, self.window_bytes as usize) {
            StreamRead::Bytes(bytes) => {
                self.decoder.push(&bytes);
                self.decode_frames();
            }
            StreamRead::End => self.is_peer_finished = true,
            StreamRead::Blocked => return false,
        }
        true
    }

    /// Lets the client send more at once when a credential was verified, or none is needed.
    fn widen_window(&mut self) {
        let is_narrow = self.window_bytes < super::RECEIVE_WINDOW_BYTES;
        if is_narrow && self.driver.receive_state() == ReceiveState::Open {
            self.window_bytes = super::RECEIVE_WINDOW_BYTES;
            self.driver.transport().connection.set_receive_window(self.window_bytes);
        }
    }

    /// Handles received frames, as many as the turn of the session allows.
    fn decode_frames(&mut self) {
        let mut micros = 0;
        while self.driver.transport().sink.borrow().is_open() {
            let state = self.driver.receive_state();
            if micros >= work::TURN_MICROS || state == ReceiveState::Waiting {
                self.has_unread = true;
                break;
            }
            let open_max = self.driver.lane().frame_bytes_max(self.encoding);
            self.decoder.set_max(state.frame_bytes_max(open_max));
            match self.decoder.next() {
                Ok(Some(frame)) => {
                    self.partial = None;
                    micros += self.driver.on_request(self.encoding.decode_request(&frame));
                }
                Ok(None) => break,
                Err(error) => self.driver.close_too_large(&error.to_string()),
            }
        }
        let pause = self.driver.charge_work(micros);
        self.paused_until = pause.map(|pause| Instant::now() + pause);
        self.update_partial();
    }

    /// Charges the bytes of a half-received frame to the budget of the node.
    fn update_partial(&mut self) {
        if self.has_unread || !self.decoder.has_partial_frame() {
            self.partial = None;
            return;
        }
        let begin = || (self.driver.begin_partial_message(), Instant::now() + MESSAGE_TIMEOUT);
        let (holding, _) = self.partial.get_or_insert_with(begin);
        if let Err(exceeded) = holding.set(self.decoder.buffered_bytes()) {
            self.partial = None;
            self.driver.close(&close::OVERLOADED, exceeded.to_string());
        }
    }
}

/// Stops the driver also when the lane drops the session: the driver and the lane refer to each other.
impl Drop for OpenSession {
    fn drop(&mut self) {
        self.driver.stop();
    }
}
