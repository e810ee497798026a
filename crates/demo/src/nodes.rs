//! The nodes of the demo, and their addresses on the loopback interface.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use pushonce_client::ServerAddress;

use crate::control::{NodeState, NodeStatus};

/// A node of the demo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// `node-1`, `node-2` or `node-3`.
    pub name: String,
    /// The data directory.
    pub data: PathBuf,
    /// Whether the data directory does not exist yet.
    pub is_new: bool,
    /// The ports of the node.
    pub ports: NodePorts,
    /// The peer address of the first node; `None` for the first node, which creates the cluster.
    pub join: Option<String>,
}

/// The ports of a node on 127.0.0.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePorts {
    /// HTTP and WebSocket.
    pub http: u16,
    /// QUIC.
    pub quic: u16,
    /// gRPC.
    pub grpc: u16,
    /// Between nodes.
    pub peer: u16,
}

/// The ports of the first node: those of `pushonce serve`.
const FIRST_NODE_PORTS: NodePorts = NodePorts { http: 7080, quic: 7443, grpc: 7090, peer: 7091 };

/// Distance between the ports of two nodes.
const PORT_STRIDE: u16 = 100;

const NODES: u16 = 3;

impl NodePorts {
    /// The ports of all nodes; `offset` is added to each.
    ///
    /// # Errors
    /// When a port would exceed 65535.
    pub(crate) fn for_all_nodes(offset: u16) -> anyhow::Result<Vec<NodePorts>> {
        let ports = (0..NODES)
            .map(|index| FIRST_NODE_PORTS.shifted(offset.checked_add(index * PORT_STRIDE)?))
            .collect::<Option<_>>();
        ports.context("--offset is too large for a port")
    }

    fn shifted(self, distance: u16) -> Option<NodePorts> {
        Some(NodePorts {
            http: self.http.checked_add(distance)?,
            quic: self.quic.checked_add(distance)?,
            grpc: self.grpc.checked_add(distance)?,
            peer: self.peer.checked_add(distance)?,
        })
    }

    /// The server for WebSocket clients.
    pub(crate) fn websocket_server(self) -> anyhow::Result<ServerAddress> {
        server("ws", self.http)
    }

    /// The server for QUIC clients.
    pub(crate) fn quic_server(self) -> anyhow::Result<ServerAddress> {
        server("quic", self.quic)
    }

    /// The server for publishers.
    pub(crate) fn grpc_server(self) -> anyhow::Result<ServerAddress> {
        server("http", self.grpc)
    }
}

fn server(scheme: &str, port: u16) -> anyhow::Result<ServerAddress> {
    Ok(format!("{scheme}://127.0.0.1:{port}").parse()?)
}

/// The nodes with these ports, whose data directories are below `data`. All but the first join the first.
pub(crate) fn specs(ports: &[NodePorts], data: &Path) -> Vec<NodeSpec> {
    let first = ports.first().map(|first| format!("127.0.0.1:{}", first.peer));
    let spec = |(index, &ports): (usize, &NodePorts)| {
        // Not `n1`: two nodes that join at once could get each other's id.
        let name = node_name(index);
        let join = first.clone().filter(|_| index > 0);
        NodeSpec { data: data.join(&name), is_new: true, name, ports, join }
    };
    ports.iter().enumerate().map(spec).collect()
}

fn node_name(index: usize) -> String {
    format!("node-{}", index + 1)
}

/// The states of the nodes with these ports at the start of the demo.
pub(crate) fn starting(ports: &[NodePorts]) -> Arc<[NodeStatus]> {
    let status = |(index, ports): (usize, &NodePorts)| NodeStatus {
        number: index + 1,
        name: node_name(index),
        http: ports.http,
        quic: ports.quic,
        state: NodeState::Starting,
    };
    ports.iter().enumerate().map(status).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_different_ports_and_join_the_first() {
        let ports = NodePorts::for_all_nodes(1_000).expect("valid ports");
        let specs = specs(&ports, Path::new("/data"));
        assert_eq!(specs[0].ports.http, 8_080);
        assert_eq!(specs[0].join, None);
        assert_eq!(specs[2].ports.http, 8_280);
        assert_eq!(specs[2].join.as_deref(), Some("127.0.0.1:8091"));
        assert_eq!(specs[2].data, Path::new("/data/node-3"));
    }

    #[test]
    fn offset_beyond_the_last_port_is_rejected() {
        assert!(NodePorts::for_all_nodes(58_000).is_err());
        assert!(NodePorts::for_all_nodes(u16::MAX).is_err());
    }
}
