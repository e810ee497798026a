//! Publishes to a replicated JetStream stream in the same way as `pushonce bench publish` publishes to a
//! topic, and prints the same figures. `scripts/bench-publish` runs both.
//!
//! Built only with the feature `peers`, so that other builds do not need a NATS client.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::stream::{Config, StorageType};
use bytes::Bytes;
use clap::Parser;
use hdrhistogram::Histogram;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Publishes to a replicated JetStream stream and prints the latency of its acknowledgements.
#[derive(Parser)]
struct JetstreamArgs {
    /// Servers of the cluster, comma-separated
    #[arg(long, default_value = "nats://127.0.0.1:4222")]
    server: String,
    /// Publishes that wait for their acknowledgement at a time
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// Number of subjects, used in turn
    #[arg(long, default_value_t = 1)]
    topics: u32,
    /// Bytes of each payload
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Duration of the measurement in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
}

/// The size limit of the stream: disk space is not measured.
const STREAM_BYTES_MAX: i64 = 1 << 30;

#[allow(clippy::print_stdout)]
#[tokio::main]
async fn main() -> Result<(), Error> {
    let args = JetstreamArgs::parse();
    let servers: Vec<&str> = args.server.split(',').collect();
    let client = async_nats::connect(servers).await?;
    let context = async_nats::jetstream::ContextBuilder::new()
        .timeout(Duration::from_secs(20))
        .max_ack_inflight(args.in_flight.max(1) * 2)
        .build(client);
    let config = Config {
        name: "bench".to_owned(),
        subjects: vec!["bench.>".to_owned()],
        storage: StorageType::File,
        num_replicas: 3,
        max_bytes: STREAM_BYTES_MAX,
        ..Config::default()
    };
    context.create_stream(config).await?;
    let report = run(&context, &args).await?;
    context.delete_stream("bench").await?;
    println!("{report}");
    Ok(())
}

async fn run(
    context: &async_nats::jetstream::Context,
    args: &JetstreamArgs,
) -> Result<serde_json::Value, Error> {
    let payload = Bytes::from(vec![b'x'; args.payload]);
    let mut in_flight: VecDeque<(Instant, PublishAckFuture)> = VecDeque::new();
    let mut latency = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    let started = Instant::now();
    let end = started + Duration::from_secs(args.seconds);
    let mut sent = 0u32;
    while Instant::now() < end {
        while in_flight.len() < args.in_flight {
            let subject = format!("bench.{}", sent % args.topics);
            let sent_at = Instant::now();
            in_flight.push_back((sent_at, context.publish(subject, payload.clone()).await?));
            sent = sent.wrapping_add(1);
        }
        if let Some((sent_at, acknowledged)) = in_flight.pop_front() {
            acknowledged.await?;
            latency.saturating_record(sent_at.elapsed().as_micros() as u64);
        }
    }
    let (elapsed, acknowledged) = (started.elapsed().as_secs_f64(), latency.len());
    for (_, acknowledged) in in_flight {
        acknowledged.await?;
    }
    let millis = |quantile| latency.value_at_quantile(quantile) as f64 / 1_000.0;
    Ok(serde_json::json!({
        "bench": "jetstream",
        "seconds": elapsed,
        "acknowledged": acknowledged,
        "per_second": acknowledged as f64 / elapsed,
        "latency_ms": { "p50": millis(0.5), "p90": millis(0.9), "p99": millis(0.99), "max": millis(1.0) },
    }))
}
