//! [`TlsSession`]: one TLS connection of a server without I/O, for threads with thousands of idle connections.
//!
//! An idle session has no buffers. What is read, encrypted and decrypted passes through the [`TlsBuffers`] of the
//! thread; a session keeps only an incomplete record, and the bytes for which the socket has no room.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus,
};

/// Maximum plaintext of a record (RFC 8446, 5.1).
const RECORD_PLAINTEXT_BYTES_MAX: usize = 16 << 10;

/// Header, content type and tag of a record in any cipher suite, with a margin for a key update before it.
const RECORD_OVERHEAD_BYTES: usize = 512;

/// A record of the maximum size is incomplete below this size (RFC 5246, 6.2.3).
const RECORD_BYTES_MAX: usize = RECORD_PLAINTEXT_BYTES_MAX + 2_048 + 5;

/// Maximum bytes of an incomplete message in the handshake, before a client is known in any way. Clients send some
/// 2 KiB, with post-quantum key exchange.
const HANDSHAKE_BYTES_MAX: usize = 8 << 10;

/// Room for an incomplete record and one read.
const INCOMING_BYTES: usize = 64 << 10;
const _: () = assert!(INCOMING_BYTES > 2 * RECORD_BYTES_MAX);

/// The buffers that the sessions of a thread share.
#[derive(Debug)]
pub struct TlsBuffers {
    incoming: Box<[u8]>,
    /// The pieces of one record.
    plaintext: Vec<u8>,
    outgoing: Box<[u8]>,
}

impl Default for TlsBuffers {
    fn default() -> TlsBuffers {
        TlsBuffers {
            incoming: vec![0; INCOMING_BYTES].into(),
            plaintext: Vec::new(),
            outgoing: vec![0; RECORD_PLAINTEXT_BYTES_MAX + RECORD_OVERHEAD_BYTES].into(),
        }
    }
}

/// One connection of a server.
pub struct TlsSession {
    /// Boxed, because it is moved when a session changes its protocol.
    connection: Box<UnbufferedServerConnection>,
    /// The begin of an incomplete record.
    partial: Vec<u8>,
    /// Encrypted bytes that must be sent before others.
    unsent: Vec<u8>,
    /// Whether the client sends nothing more.
    is_peer_closed: bool,
    /// Whether the end of the stream was announced to the client.
    is_closed: bool,
}

impl TlsSession {
    /// A session whose client has sent nothing yet.
    ///
    /// # Errors
    /// When the settings cannot be used.
    pub fn new(config: Arc<ServerConfig>) -> Result<TlsSession, rustls::Error> {
        Ok(TlsSession {
            connection: Box::new(UnbufferedServerConnection::new(config)?),
            partial: Vec::new(),
            unsent: Vec::new(),
            is_peer_closed: false,
            is_closed: false,
        })
    }

    /// Whether the handshake is not complete yet.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// The application protocol that was negotiated.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.connection.alpn_protocol()
    }

    /// Whether encrypted bytes wait for the socket.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Whether the client announced the end of its stream.
    pub fn is_peer_closed(&self) -> bool {
        self.is_peer_closed
    }

    /// Calls `receive` once, decrypts what it wrote into its argument, and passes each decrypted piece to
    /// `on_plaintext`. Returns the result of `receive`: 0 is the end of the TCP stream. There may be no plaintext,
    /// and there may be bytes to send.
    ///
    /// # Errors
    /// Those of `receive`, and [`ErrorKind::InvalidData`] when the client violates the protocol. An alert is then
    /// among the bytes to send.
    pub fn read(
        &mut self,
        buffers: &mut TlsBuffers,
        receive: impl FnOnce(&mut [u8]) -> io::Result<usize>,
        on_plaintext: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        let start = self.partial.len();
        let Some((partial, free)) = buffers.incoming.split_at_mut_checked(start) else {
            return Err(io::Error::new(ErrorKind::InvalidData, "a record is too long"));
        };
        let received = receive(free)?;
        partial.copy_from_slice(&self.partial);
        let filled = buffers.incoming.get_mut(..start + received).unwrap_or_default();
        let processed = self.process(filled, on_plaintext)?;
        let rest = filled.get(processed..).unwrap_or_default();
        let max = if self.is_handshaking() { HANDSHAKE_BYTES_MAX } else { RECORD_BYTES_MAX };
        if rest.len() > max {
            return Err(io::Error::new(ErrorKind::InvalidData, "a record is too long"));
        }
        // Exact, because most sessions have none.
        self.partial = rest.to_vec();
        Ok(received)
    }

    /// Processes all complete records and returns the number of bytes that are no longer needed.
    fn process(
        &mut self,
        incoming: &mut [u8],
        mut on_plaintext: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        let mut processed = 0;
        loop {
            let rest = incoming.get_mut(processed..).unwrap_or_default();
            let UnbufferedStatus { discard, state } = self.connection.process_tls_records(rest);
            let is_blocked = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        on_plaintext(record.map_err(invalid_data)?.payload);
                    }
                    false
                }
                Ok(ConnectionState::EncodeTlsData(data)) => {
                    append(&mut self.unsent, data)?;
                    false
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    false
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.is_peer_closed = true;
                    false
                }
                Ok(ConnectionState::Closed) => {
                    self.is_peer_closed = true;
                    true
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => true,
                // Early data is not accepted, and there are no other states.
                Ok(_) => return Err(ErrorKind::Unsupported.into()),
                Err(error) => {
                    processed += discard;
                    self.append_alert(incoming.get_mut(processed..).unwrap_or_default());
                    return Err(invalid_data(error));
                }
            };
            processed += discard;
            if is_blocked {
                return Ok(processed);
            }
        }
    }

    /// After an error the connection may have an alert to send.
    fn append_alert(&mut self, incoming: &mut [u8]) {
        let status = self.connection.process_tls_records(incoming);
        if let Ok(ConnectionState::EncodeTlsData(data)) = status.state {
            // Without the alert the client sees the end of the connection.
            let _ = append(&mut self.unsent, data);
        }
    }

    /// Encrypts from the begin of `pieces` and passes the result to `send` until that returns
    /// [`ErrorKind::WouldBlock`]. Returns the number of accepted plaintext bytes; at most one record of them is
    /// kept for [`TlsSession::flush`].
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] when nothing was accepted, the other errors of `send`, and an error before the
    /// handshake is complete or after [`TlsSession::close`].
    pub fn write(
        &mut self,
        buffers: &mut TlsBuffers,
        pieces: &[IoSlice<'_>],
        mut send: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut accepted = 0;
        self.flush(&mut send)?;
        if self.has_unsent() {
            return Err(ErrorKind::WouldBlock.into());
        }
        loop {
            let TlsBuffers { plaintext, outgoing, .. } = buffers;
            let record = next_record(pieces, accepted, plaintext);
            if record.is_empty() {
                return Ok(accepted);
            }
            let sealed = self.seal(record, outgoing)?;
            accepted += record.len();
            let sealed = outgoing.get(..sealed).unwrap_or_default();
            // A key update precedes the record.
            if self.has_unsent() {
                self.unsent.extend_from_slice(sealed);
            } else {
                let sent = or_none(send(sealed))?;
                self.unsent = sealed.get(sent..).unwrap_or_default().to_vec();
            }
            self.flush(&mut send)?;
            if self.has_unsent() {
                return Ok(accepted);
            }
        }
    }

    /// Sends the bytes that [`TlsSession::write`] accepted and `send` did not, until that returns
    /// [`ErrorKind::WouldBlock`]. Returns the number of bytes that were sent.
    ///
    /// # Errors
    /// The other errors of `send`. The bytes are then dropped.
    pub fn flush(&mut self, mut send: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<usize> {
        let mut total = 0;
        while let Some(rest) = self.unsent.get(total..).filter(|rest| !rest.is_empty()) {
            match or_none(send(rest)) {
                Ok(0) => break,
                Ok(sent) => total += sent,
                Err(error) => {
                    self.unsent = Vec::new();
                    return Err(error);
                }
            }
        }
        if total >= self.unsent.len() {
            self.unsent = Vec::new();
        } else {
            self.unsent.drain(..total);
        }
        Ok(total)
    }

    /// Announces the end of the stream to the client. The announcement is sent by [`TlsSession::flush`].
    pub fn close(&mut self, buffers: &mut TlsBuffers) {
        if std::mem::replace(&mut self.is_closed, true) {
            return;
        }
        let status = self.connection.process_tls_records(&mut self.partial);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state
            && let Ok(len) = traffic.queue_close_notify(&mut buffers.outgoing)
        {
            self.unsent.extend_from_slice(buffers.outgoing.get(..len).unwrap_or_default());
        }
    }

    /// Encrypts one record into `outgoing` and returns its length.
    fn seal(&mut self, record: &[u8], outgoing: &mut [u8]) -> io::Result<usize> {
        loop {
            // The incomplete record is passed again each time: it may contain a part of a handshake message.
            let status = self.connection.process_tls_records(&mut self.partial);
            let UnbufferedStatus { discard, state } = status;
            let sealed = match state.map_err(invalid_data)? {
                ConnectionState::WriteTraffic(mut traffic) if !self.is_closed => {
                    Some(traffic.encrypt(record, outgoing).map_err(io::Error::other)?)
                }
                ConnectionState::EncodeTlsData(data) => {
                    append(&mut self.unsent, data)?;
                    None
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    None
                }
                ConnectionState::PeerClosed => {
                    self.is_peer_closed = true;
                    None
                }
                _ => return Err(ErrorKind::NotConnected.into()),
            };
            self.partial.drain(..discard);
            if let Some(len) = sealed {
                return Ok(len);
            }
        }
    }
}

impl fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unsent_bytes = self.unsent.len();
        f.debug_struct("TlsSession").field("unsent_bytes", &unsent_bytes).finish_non_exhaustive()
    }
}

/// The plaintext of the next record: the bytes of `pieces` after the first `skip`. Only records of several pieces are
/// copied.
fn next_record<'a>(
    pieces: &'a [IoSlice<'_>],
    mut skip: usize,
    joined: &'a mut Vec<u8>,
) -> &'a [u8] {
    let mut rest = pieces.iter().filter_map(|piece| {
        let rest = piece.get(skip..);
        skip = skip.saturating_sub(piece.len());
        rest.filter(|rest| !rest.is_empty())
    });
    let Some(first) = rest.next() else { return &[] };
    let Some(second) = rest.next().filter(|_| first.len() < RECORD_PLAINTEXT_BYTES_MAX) else {
        return first.get(..RECORD_PLAINTEXT_BYTES_MAX).unwrap_or(first);
    };
    joined.clear();
    for piece in [first, second].into_iter().chain(rest) {
        let room = RECORD_PLAINTEXT_BYTES_MAX - joined.len();
        joined.extend_from_slice(piece.get(..room).unwrap_or(piece));
        if joined.len() == RECORD_PLAINTEXT_BYTES_MAX {
            break;
        }
    }
    joined
}

/// Appends a message of the connection to the bytes to send.
fn append(
    unsent: &mut Vec<u8>,
    mut data: EncodeTlsData<'_, ServerConnectionData>,
) -> io::Result<()> {
    let start = unsent.len();
    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
        data.encode(&mut [])
    {
        unsent.resize(start + required_size, 0);
        data.encode(unsent.get_mut(start..).unwrap_or_default()).map_err(io::Error::other)?;
    }
    Ok(())
}

/// The number of sent bytes: none when the socket is full.
fn or_none(sent: io::Result<usize>) -> io::Result<usize> {
    match sent {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        sent => sent,
    }
}

fn invalid_data(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
