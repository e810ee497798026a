//! Arbitrary, lost, repeated and changed datagrams cause no panic, and a client is served as soon as its
//! datagrams arrive.

mod client;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use client::Client;
use proptest::prelude::*;
use proptest::sample::Index;
use pushonce_quic::fuzz::FuzzEndpoint;

const CLIENT_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4433);

/// What happens to one datagram of the client.
#[derive(Clone, Debug)]
enum Fault {
    None,
    Lost,
    Repeated,
    /// One byte is changed.
    Changed(Index, u8),
    Truncated(Index),
    /// Random bytes arrive first.
    Preceded(Vec<u8>),
}

fn faults() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::None),
        Just(Fault::Lost),
        Just(Fault::Repeated),
        (any::<Index>(), 1..=u8::MAX).prop_map(|(at, bits)| Fault::Changed(at, bits)),
        any::<Index>().prop_map(Fault::Truncated),
        prop::collection::vec(any::<u8>(), 0..1_500).prop_map(Fault::Preceded),
    ]
}

/// The datagrams that arrive instead of `datagram`.
fn apply(fault: &Fault, datagram: Vec<u8>) -> Vec<Vec<u8>> {
    match fault {
        Fault::None => vec![datagram],
        Fault::Lost => vec![],
        Fault::Repeated => vec![datagram.clone(), datagram],
        Fault::Changed(at, bits) => {
            let mut changed = datagram;
            let at = at.index(changed.len());
            changed[at] ^= bits;
            vec![changed]
        }
        Fault::Truncated(at) => vec![datagram[..at.index(datagram.len())].to_vec()],
        Fault::Preceded(noise) => vec![noise.clone(), datagram],
    }
}

/// Exchanges datagrams until the client has the echo of `payload`, or for a simulated minute. The first
/// datagrams of the client suffer `faults`.
fn echo(payload: &[u8], faults: &[Fault]) -> (Vec<u8>, FuzzEndpoint) {
    let start = Instant::now();
    let mut now = start;
    let mut server = FuzzEndpoint::new().expect("an endpoint");
    let mut client = Client::connect(now, payload, server.certificate());
    let mut faults = faults.iter();
    while !client.is_done() && now < start + Duration::from_secs(60) {
        let mut sent = client.send(now);
        let is_idle = sent.is_empty();
        let mut answers = Vec::new();
        for datagram in sent.drain(..) {
            for arriving in apply(faults.next().unwrap_or(&Fault::None), datagram) {
                answers.extend(server.receive(CLIENT_ADDRESS, &arriving, now));
            }
        }
        answers.extend(server.advance(now));
        if is_idle && answers.is_empty() {
            let deadlines = [client.deadline(), server.next_deadline()];
            let next = deadlines
                .into_iter()
                .flatten()
                .min()
                .expect("the client or the server has a deadline");
            now = next.max(now + Duration::from_micros(1));
            client.on_deadline(now);
        }
        for datagram in answers {
            client.receive(&datagram, now);
        }
    }
    (client.received, server)
}

#[test]
fn closed_connection_is_removed_after_its_timeouts() {
    let (received, mut server) = echo(b"hello", &[]);
    assert_eq!(received, b"hello");
    let mut now = Instant::now() + Duration::from_secs(120);
    while let Some(deadline) = server.next_deadline() {
        now = now.max(deadline);
        server.advance(now);
    }
    assert_eq!(server.connection_count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    // Six at most: the client gives up after thirty seconds without an answer.
    #[test]
    fn client_is_served_after_its_first_datagrams_were_lost_repeated_or_changed(
        faults in prop::collection::vec(faults(), 0..=6),
        payload in prop::collection::vec(any::<u8>(), 1..1_000),
    ) {
        let (received, server) = echo(&payload, &faults);
        prop_assert_eq!(received, payload);
        // None if the server closed the connection, which it does when all of the echo is acknowledged.
        prop_assert!(server.connection_count() <= 1);
    }


    // Long headers of version 1, which the endpoint parses to their end.
    #[test]
    fn arbitrary_initial_packets_start_no_connection(
        first in 0xc0..=0xff_u8,
        ids in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..=20), 2),
        rest in prop::collection::vec(any::<u8>(), 0..1_300),
    ) {
        let mut datagram = vec![first, 0, 0, 0, 1];
        for id in &ids {
            datagram.push(id.len() as u8);
            datagram.extend(id);
        }
        datagram.extend(rest);
        let mut server = FuzzEndpoint::new().expect("an endpoint");
        for _ in 0..2 {
            let answers = server.receive(CLIENT_ADDRESS, &datagram, Instant::now());
            // RFC 9000, 8.1: no amplification beyond three times what was received.
            let answered: usize = answers.iter().map(Vec::len).sum();
            prop_assert!(answered <= 3 * datagram.len());
        }
        prop_assert_eq!(server.connection_count(), 0);
    }
}
