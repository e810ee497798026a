//! What a delivery costs whoever makes it: the kernel's way from a write to the reader's socket.
//!
//! The least that a fan-out can cost on the machine it runs on. `pushonce bench fanout` tells the
//! server's CPU time a delivery; this is what to hold it against. Loopback, a frame of 222 bytes
//! (128 of payload) to each connection in turn, the next round when all have read.
//!
//! Timed is the CPU of the writing thread, not the clock: readers and neighbours share the cores.

#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;

const FRAME: [u8; 222] = [b'x'; 222];

fn bare_write(c: &mut Criterion) {
    for connections in [1_000, 5_000] {
        // Without the CPU time of a thread there is nothing that could be compared; without enough
        // file descriptors there are not so many connections.
        if let (Some(_), Ok((servers, clients))) =
            (thread_cpu_time(), connection_pairs(connections))
        {
            bench_rounds(c, servers, clients);
        }
    }
}

fn bench_rounds(c: &mut Criterion, mut servers: Vec<TcpStream>, clients: Vec<TcpStream>) {
    let connections = servers.len();
    let (all_read_sender, all_read) = mpsc::sync_channel(0);
    let reader = std::thread::spawn(move || read_all(clients, all_read_sender));
    let mut group = c.benchmark_group("bare write");
    group.sample_size(10).throughput(Throughput::Elements(connections as u64));
    group.bench_function(BenchmarkId::new("connections", connections), |b| {
        b.iter_custom(|rounds| {
            let before = thread_cpu_time().unwrap();
            for _ in 0..rounds {
                servers.iter_mut().for_each(|socket| socket.write_all(&FRAME).unwrap());
                all_read.recv().unwrap();
            }
            thread_cpu_time().unwrap() - before
        });
    });
    group.finish();
    drop(servers);
    drop(all_read);
    reader.join().unwrap();
}

fn connection_pairs(connections: usize) -> io::Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let pair = |_| {
        let client = TcpStream::connect(address)?;
        let (server, _) = listener.accept()?;
        server.set_nodelay(true)?;
        Ok((server, client))
    };
    (0..connections).map(pair).collect()
}

/// A task a connection on one thread, as clients are; says when all have read another frame. Ends
/// when the other ends are gone.
fn read_all(clients: Vec<TcpStream>, all_read: mpsc::SyncSender<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let connections = clients.len();
    let (seen, all_read) = (Arc::new(AtomicUsize::new(0)), Arc::new(all_read));
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for socket in clients {
            socket.set_nonblocking(true).unwrap();
            let mut socket = tokio::net::TcpStream::from_std(socket).unwrap();
            let (seen, all_read) = (seen.clone(), all_read.clone());
            tasks.spawn(async move {
                let mut frame = FRAME;
                while socket.read_exact(&mut frame).await.is_ok() {
                    let all = (seen.fetch_add(1, Ordering::Relaxed) + 1) % connections == 0;
                    if all && all_read.send(()).is_err() {
                        return;
                    }
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    });
}

/// CPU time of this thread, to the nanosecond, as Linux tells it.
fn thread_cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = bare_write
}
criterion_main!(benches);
