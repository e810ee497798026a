//! The minimum cost of a delivery: the kernel's work from a write to the reader's socket.
//!
//! No fan-out can cost less on the same machine. Compare it with the server's CPU time per delivery that
//! `pushonce bench fanout` prints. Loopback, a frame of 222 bytes (128 of payload) to each connection in
//! turn, the next round when all have read.
//!
//! The measured time is the CPU time of the writing thread, because readers and other processes share the
//! cores.

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
        // Skipped if the CPU time of a thread or enough file descriptors are not available.
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

/// Reads on one thread, with one task per connection; signals when all have read another frame. Ends when the
/// servers have closed their ends.
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

/// The CPU time of this thread in nanoseconds, from Linux.
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
