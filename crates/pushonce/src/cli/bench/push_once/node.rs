//! A node in a process of its own, on free ports, with a folder that goes when it goes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::viewers;
use crate::config::{Config, Partial};
use crate::init;

const START_MAX: Duration = Duration::from_secs(30);

/// Ends when it is dropped.
pub(super) struct Node {
    pub(super) http: SocketAddr,
    pub(super) pid: u32,
    // In this order: the process goes before its folder.
    _child: Child,
    _data: TempDir,
}

impl Node {
    /// Returns when it is ready.
    pub(super) async fn start() -> anyhow::Result<Node> {
        let data = tempfile::tempdir()?;
        let flags = Partial { data: Some(data.path().to_owned()), ..Partial::default() };
        init(&Config::resolve(flags, Partial::default(), Partial::default())?).await?;
        let [http, quic, grpc, peer] = free_ports()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--log", "error", "serve", "--name", "bench", "--data"]).arg(data.path());
        for (flag, address) in
            [("--http", http), ("--quic", quic), ("--grpc", grpc), ("--peer", peer)]
        {
            command.args([flag, &address.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().context("the node does not start")?;
        let pid = child.id().context("the node has ended already")?;
        let begun = Instant::now();
        while !viewers::ready(http).await {
            if begun.elapsed() > START_MAX {
                bail!("the node is not ready after {START_MAX:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Node { http, pid, _child: child, _data: data })
    }
}

/// Held together for a moment, so that they differ.
fn free_ports() -> anyhow::Result<[SocketAddr; 4]> {
    let take = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let taken = [take()?, take()?, take()?, take()?];
    let mut ports = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 4];
    for (port, listener) in ports.iter_mut().zip(&taken) {
        *port = listener.local_addr()?;
    }
    Ok(ports)
}
