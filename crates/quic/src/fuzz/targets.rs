//! Datagrams of any content, after those of a real client.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use pushonce_fuzz::Input;

use super::client::Client;
use super::{FuzzEndpoint, receive};

const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4433);

/// The datagrams of a client that connects, each after its length, two bytes, big endian.
fn handshake() -> Vec<u8> {
    let now = Instant::now();
    let mut server = FuzzEndpoint::new().expect("an endpoint");
    let mut client = Client::connect(now, b"hello", server.certificate());
    let mut datagrams = Vec::new();
    for _ in 0..3 {
        for datagram in client.send(now) {
            datagrams.extend((datagram.len() as u16).to_be_bytes());
            datagrams.extend(&datagram);
            let answers = server.receive(CLIENT, &datagram, now);
            answers.iter().for_each(|answer| client.receive(answer, now));
        }
    }
    datagrams
}

/// A long header of version 1 with connection ids of eight bytes, whose packet cannot be decrypted.
fn initial() -> Vec<u8> {
    let header = [&[0xc0, 0, 0, 0, 1, 8][..], &[1; 8], &[8], &[2; 8], &[0, 0x44, 0xb0]].concat();
    let datagram = [header, vec![0; 1_200]].concat();
    [&(datagram.len() as u16).to_be_bytes(), &datagram[..]].concat()
}

#[test]
fn datagrams_of_any_content_are_answered_within_the_amplification_limit() {
    pushonce_fuzz::check!(
        "datagrams",
        vec![handshake(), initial(), initial()[..40].to_vec()],
        |input| {
            receive(input);
            let Some(mut server) = FuzzEndpoint::new() else { return };
            let (mut input, now) = (Input::new(input), Instant::now());
            let (mut received, mut sent) = (0, 0);
            while !input.rest().is_empty() {
                let len = input.u16();
                let datagram = input.bytes(usize::from(len));
                received += datagram.len();
                let answers = server.receive(CLIENT, datagram, now);
                sent += answers.iter().map(Vec::len).sum::<usize>();
                // RFC 9000, 8.1: no client of this target proves its address to this endpoint.
                assert!(sent <= 3 * received, "{sent} bytes sent for {received}");
            }
        }
    );
}
