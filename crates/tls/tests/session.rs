//! A session without I/O, with a client of rustls at the other end.

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use pushonce_tls::test_util::TestAuthority;
use pushonce_tls::{CertificateStore, TlsBuffers, TlsSession, server_config};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConfig};

struct Pair {
    client: ClientConnection,
    session: TlsSession,
    buffers: TlsBuffers,
    /// What the session decrypted.
    received: Vec<u8>,
    /// What the client decrypted.
    sent: Vec<u8>,
    /// Bytes from the client that the session has not read yet.
    to_session: Vec<u8>,
}

fn server_settings(authority: &TestAuthority) -> Arc<ServerConfig> {
    let directory = tempfile::tempdir().expect("a directory");
    let now = SystemTime::now();
    let files = authority.issue(now).write(directory.path());
    let store = CertificateStore::load("tls-cert", files, now).expect("valid files");
    Arc::new(server_config(&store, &[b"http/1.1"], None).expect("valid settings"))
}

impl Pair {
    fn new(version: &'static rustls::SupportedProtocolVersion) -> Pair {
        let authority = TestAuthority::new();
        let config = authority.client_config_for(&[version], &[b"http/1.1"]);
        let name = ServerName::try_from("localhost").expect("a name");
        Pair {
            client: ClientConnection::new(Arc::new(config), name).expect("valid settings"),
            session: TlsSession::new(server_settings(&authority)).expect("valid settings"),
            buffers: TlsBuffers::default(),
            received: Vec::new(),
            sent: Vec::new(),
            to_session: Vec::new(),
        }
    }

    fn connected(version: &'static rustls::SupportedProtocolVersion) -> Pair {
        let mut pair = Pair::new(version);
        pair.exchange(usize::MAX);
        assert!(!pair.session.is_handshaking() && !pair.client.is_handshaking());
        pair
    }

    /// Passes bytes in both directions until both ends wait, at most `step` at a time.
    fn exchange(&mut self, step: usize) {
        loop {
            let from_client = self.pass_to_session(step).expect("valid records");
            let from_session = self.pass_to_client(step);
            if !from_client && !from_session {
                return;
            }
        }
    }

    fn pass_to_session(&mut self, step: usize) -> io::Result<bool> {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.to_session).expect("written");
        }
        let len = self.to_session.len().min(step);
        if len == 0 {
            return Ok(false);
        }
        let piece: Vec<u8> = self.to_session.drain(..len).collect();
        let receive = |free: &mut [u8]| {
            free[..len].copy_from_slice(&piece);
            Ok(len)
        };
        let received = &mut self.received;
        self.session.read(&mut self.buffers, receive, |plain| received.extend_from_slice(plain))?;
        Ok(true)
    }

    fn pass_to_client(&mut self, step: usize) -> bool {
        let mut sent = Vec::new();
        let _ = self.session.flush(|bytes| {
            let len = bytes.len().min(step);
            sent.extend_from_slice(&bytes[..len]);
            Ok(len)
        });
        self.give_to_client(&sent);
        !sent.is_empty()
    }

    fn give_to_client(&mut self, mut sent: &[u8]) {
        while !sent.is_empty() {
            self.client.read_tls(&mut sent).expect("read");
            self.client.process_new_packets().expect("valid records");
            // An error means that there is no more.
            let _ = self.client.reader().read_to_end(&mut self.sent);
        }
    }
}

const VERSIONS: [&rustls::SupportedProtocolVersion; 2] =
    [&rustls::version::TLS13, &rustls::version::TLS12];

#[test]
fn handshake_and_data_pass_one_byte_at_a_time() {
    for version in VERSIONS {
        let mut pair = Pair::new(version);
        pair.client.writer().write_all(b"request").unwrap();
        pair.exchange(1);
        assert_eq!(pair.received, b"request");
        assert_eq!(pair.client.protocol_version(), Some(version.version));
        assert_eq!(pair.session.alpn_protocol(), Some(&b"http/1.1"[..]));
    }
}

#[test]
fn pieces_are_joined_into_records_and_arrive_in_order() {
    for version in VERSIONS {
        let mut pair = Pair::connected(version);
        let pieces: Vec<Vec<u8>> =
            [1, 0, 300, 16_383, 2, 40_000, 7].iter().map(|&len| vec![len as u8; len]).collect();
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut sent = Vec::new();
        let mut records = 0;
        let accepted = pair.session.write(&mut pair.buffers, &slices, |bytes| {
            records += 1;
            sent.extend_from_slice(bytes);
            Ok(bytes.len())
        });
        assert_eq!(accepted.unwrap(), pieces.concat().len());
        assert_eq!(records, pieces.concat().len().div_ceil(16 << 10));
        pair.give_to_client(&sent);
        assert!(pair.sent == pieces.concat());
    }
}

#[test]
fn full_socket_keeps_one_record_and_loses_nothing() {
    let mut pair = Pair::connected(&rustls::version::TLS13);
    let data: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    let (mut accepted, mut sent) = (0, Vec::new());
    let mut turns = 0;
    while accepted < data.len() {
        let mut room = 1_000;
        let result =
            pair.session.write(&mut pair.buffers, &[IoSlice::new(&data[accepted..])], |bytes| {
                let len = bytes.len().min(room);
                room -= len;
                sent.extend_from_slice(&bytes[..len]);
                if len == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(len) }
            });
        match result {
            Ok(len) => {
                assert!(len <= 16 << 10 && pair.session.has_unsent());
                accepted += len;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        turns += 1;
    }
    assert!(turns > 90, "{turns}");
    pair.give_to_client(&sent);
    pair.pass_to_client(usize::MAX);
    assert!(pair.sent == data);
    assert!(!pair.session.has_unsent());
}

#[test]
fn client_that_updates_its_keys_gets_a_response_before_the_next_data() {
    let mut pair = Pair::connected(&rustls::version::TLS13);
    pair.client.refresh_traffic_keys().unwrap();
    pair.client.writer().write_all(b"ping").unwrap();
    // One byte at a time: data is written while the update is incomplete.
    for _ in 0..3 {
        pair.pass_to_session(1).unwrap();
        let mut sent = Vec::new();
        pair.session
            .write(&mut pair.buffers, &[IoSlice::new(b"x")], |bytes| {
                sent.extend_from_slice(bytes);
                Ok(bytes.len())
            })
            .unwrap();
        pair.give_to_client(&sent);
    }
    pair.exchange(1);
    assert_eq!(pair.received, b"ping");
    let mut sent = Vec::new();
    let pieces = [IoSlice::new(b"pong")];
    let write = pair.session.write(&mut pair.buffers, &pieces, |bytes| {
        sent.extend_from_slice(bytes);
        Ok(bytes.len())
    });
    assert_eq!(write.unwrap(), 4);
    pair.give_to_client(&sent);
    assert_eq!(pair.sent, b"xxxpong");
}

#[test]
fn end_of_stream_is_announced_in_both_directions() {
    for version in VERSIONS {
        let mut pair = Pair::connected(version);
        pair.session.close(&mut pair.buffers);
        pair.session.close(&mut pair.buffers);
        pair.pass_to_client(usize::MAX);
        let read = pair.client.reader().read(&mut [0; 1]);
        assert_eq!(read.unwrap(), 0, "the end of the stream, not an unexpected end");
        let write = pair.session.write(&mut pair.buffers, &[IoSlice::new(b"late")], |_| Ok(0));
        assert_eq!(write.unwrap_err().kind(), ErrorKind::NotConnected);
        pair.client.send_close_notify();
        pair.exchange(usize::MAX);
        assert!(pair.session.is_peer_closed());
    }
}

#[test]
fn violations_are_errors_with_an_alert() {
    for input in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0, 4, 1, 0, 0, 0], &[0x17; 600]] {
        let mut pair = Pair::new(&rustls::version::TLS13);
        pair.to_session = input.to_vec();
        while pair.client.wants_write() {
            pair.client.write_tls(&mut io::sink()).unwrap();
        }
        let error = pair.pass_to_session(usize::MAX).expect_err("a violation");
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        assert!(pair.session.has_unsent(), "an alert: {error}");
    }
}

#[test]
fn damaged_record_ends_the_session() {
    let mut pair = Pair::connected(&rustls::version::TLS13);
    pair.client.writer().write_all(b"request").unwrap();
    pair.client.write_tls(&mut pair.to_session).unwrap();
    *pair.to_session.last_mut().unwrap() ^= 1;
    let error = pair.pass_to_session(usize::MAX).expect_err("a damaged record");
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    assert!(pair.received.is_empty());
}

#[test]
fn endless_handshake_message_is_refused_after_some_kilobytes() {
    let mut pair = Pair::new(&rustls::version::TLS13);
    while pair.client.wants_write() {
        pair.client.write_tls(&mut io::sink()).unwrap();
    }
    // A client hello of 60,000 bytes in records of 1,000.
    let mut message = vec![1, 0, 0xea, 0x60];
    message.resize(60_004, 0);
    for chunk in message.chunks(1_000) {
        pair.to_session.extend([0x16, 3, 1]);
        pair.to_session.extend((chunk.len() as u16).to_be_bytes());
        pair.to_session.extend(chunk);
    }
    let sent = pair.to_session.len();
    let error = loop {
        if let Err(error) = pair.pass_to_session(500) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    let taken = sent - pair.to_session.len();
    assert!(taken <= 10_000, "{taken}");
}
