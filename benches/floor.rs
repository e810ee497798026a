//! What a delivery costs whoever makes it: the kernel's way from a write to the reader's socket.
//!
//! The least that a fan-out can cost on the machine it runs on. `pushonce bench fanout` tells the
//! server's CPU time a delivery; this is what to hold it against. Loopback, a frame of 222 bytes
//! (128 of payload) to each of 1,000 connections in turn, the next round when all have read.
//!
//! Timed is the CPU of the writing thread, not the clock: readers and neighbours share the cores.

#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const CONNECTIONS: usize = 1_000;
const FRAME: [u8; 222] = [b'x'; 222];

fn write(c: &mut Criterion) {
    if on_cpu().is_none() {
        // No CPU time of a thread here, so nothing that could be compared.
        return;
    }
    let (mut near, far) = pairs();
    let (say, hear) = mpsc::sync_channel(0);
    let reader = std::thread::spawn(move || read(far, &say));
    let mut group = c.benchmark_group("socket");
    group.sample_size(10).throughput(Throughput::Elements(CONNECTIONS as u64));
    group.bench_function("bare write to 1,000 connections", |b| {
        b.iter_custom(|rounds| {
            let before = on_cpu().unwrap();
            for _ in 0..rounds {
                near.iter_mut().for_each(|socket| socket.write_all(&FRAME).unwrap());
                hear.recv().unwrap();
            }
            on_cpu().unwrap() - before
        });
    });
    group.finish();
    drop(near);
    drop(hear);
    reader.join().unwrap();
}

fn pairs() -> (Vec<TcpStream>, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pair = |_| {
        let far = TcpStream::connect(address).unwrap();
        let (near, _) = listener.accept().unwrap();
        near.set_nodelay(true).unwrap();
        (near, far)
    };
    (0..CONNECTIONS).map(pair).unzip()
}

/// Round after round, until the other end is gone.
fn read(mut far: Vec<TcpStream>, say: &mpsc::SyncSender<()>) {
    let mut frame = FRAME;
    while far.iter_mut().all(|socket| socket.read_exact(&mut frame).is_ok()) {
        if say.send(()).is_err() {
            return;
        }
    }
}

/// CPU time of this thread, to the nanosecond, as Linux tells it.
fn on_cpu() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = write
}
criterion_main!(benches);
