//! First packets with forged source addresses: the victim gets little, and the endpoint holds little.

mod client;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use client::Client;
use pushonce_quic::fuzz::FuzzEndpoint;

/// More than the endpoint accepts without a proof of the address.
const INITIALS: u16 = 400;

/// The handshakes in progress beyond which an address must be proven.
const HANDSHAKES_BEFORE_RETRY: usize = 128;

fn total(datagrams: &[Vec<u8>]) -> usize {
    datagrams.iter().map(Vec::len).sum()
}

#[test]
fn forged_initials_are_answered_with_at_most_three_times_their_bytes() {
    let start = Instant::now();
    let mut server = FuzzEndpoint::new().expect("an endpoint");
    let (mut received, mut sent) = (0, 0);
    for nth in 0..INITIALS {
        let victim = SocketAddr::from(([192, 0, 2, 1], 1_000 + nth));
        let mut client = Client::connect(start, b"x", server.certificate());
        for datagram in client.send(start) {
            received += datagram.len();
            sent += total(&server.receive(victim, &datagram, start));
        }
        sent += total(&server.advance(start));
    }
    let count = server.connection_count();
    assert!((1..=HANDSHAKES_BEFORE_RETRY).contains(&count), "{count} connections");
    // Retransmissions count as well.
    let mut now = start;
    while let Some(deadline) = server.next_deadline()
        && deadline < start + Duration::from_secs(300)
    {
        now = now.max(deadline);
        sent += total(&server.advance(now));
    }
    assert!(sent <= 3 * received, "{sent} bytes for {received}");
    assert_eq!(server.connection_count(), 0, "half-open connections end");
}

/// The packets that the endpoint repeats without an answer count for each address by itself.
#[test]
fn forged_initial_of_one_address_is_answered_with_at_most_three_times_its_bytes() {
    let start = Instant::now();
    let mut server = FuzzEndpoint::new().expect("an endpoint");
    let victim = SocketAddr::from(([192, 0, 2, 1], 1_000));
    let mut client = Client::connect(start, b"x", server.certificate());
    let (mut received, mut sent) = (0, 0);
    for datagram in client.send(start) {
        received += datagram.len();
        sent += total(&server.receive(victim, &datagram, start));
    }
    assert!(sent > 0, "the endpoint answers");
    let mut now = start;
    while let Some(deadline) = server.next_deadline()
        && deadline < start + Duration::from_secs(300)
    {
        now = now.max(deadline);
        sent += total(&server.advance(now));
    }
    assert!(sent <= 3 * received, "{sent} bytes for {received}");
}
