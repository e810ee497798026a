//! A node in a separate process, on free ports, with a temporary data directory.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::viewers;
use crate::config::{Config, Settings};
use crate::init;

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The process of a node; dropping it ends the process.
pub(super) struct NodeProcess {
    pub(super) http: SocketAddr,
    pub(super) pid: u32,
    // In this order: the process ends before its directory is deleted.
    _child: Child,
    _data: TempDir,
}

impl NodeProcess {
    /// Starts a node, and waits until it is ready.
    pub(super) async fn start() -> anyhow::Result<NodeProcess> {
        let data = tempfile::tempdir()?;
        let settings = Settings { data: Some(data.path().to_owned()), ..Settings::default() };
        init(&Config::resolve(settings)?).await?;
        let [http, quic, grpc, peer] = free_ports()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--log", "error", "serve", "--name", "bench", "--data"]).arg(data.path());
        for (flag, address) in
            [("--http", http), ("--quic", quic), ("--grpc", grpc), ("--peer", peer)]
        {
            command.args([flag, &address.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().context("cannot start the node")?;
        let pid = child.id().context("the node has ended already")?;
        let started = Instant::now();
        while !viewers::is_ready(http).await {
            if started.elapsed() > START_TIMEOUT {
                bail!("the node is not ready after {START_TIMEOUT:?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(NodeProcess { http, pid, _child: child, _data: data })
    }
}

/// Binds all ports at the same time, so that they differ.
fn free_ports() -> anyhow::Result<[SocketAddr; 4]> {
    let bind_any = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners = [bind_any()?, bind_any()?, bind_any()?, bind_any()?];
    let mut ports = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 4];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?;
    }
    Ok(ports)
}
