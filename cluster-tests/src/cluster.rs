//! A cluster of processes for one test.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

use pushonce_client::CertificateTrust;
use pushonce_proto::pb::cluster::v1::cluster_service_client::ClusterServiceClient;
use pushonce_proto::pb::cluster::v1::{
    ExplainRequest, ExplainResponse, Shard, StatusRequest, StatusResponse,
};
use tempfile::TempDir;

use crate::cli::{self, CommandOutput};
use crate::environment::{Loopback, NodeEnvironment};
use crate::http_client;
use crate::node::{ClusterNode, Ports};
use crate::wait::{secs, wait_until};

/// Configures a cluster before it starts.
pub struct Builder {
    regions: Vec<(String, usize)>,
    flags: Vec<&'static str>,
    environment: Arc<dyn NodeEnvironment>,
    dir: Option<PathBuf>,
}

/// A cluster of node processes. Node 0 was initialized with `pushonce init`, the others joined it.
pub struct ProcessCluster {
    nodes: Vec<ClusterNode>,
    dir: ClusterDir,
    environment: Arc<dyn NodeEnvironment>,
}

/// The directory of a test. It holds the logs and, unless the environment provides volumes, the data.
enum ClusterDir {
    /// Removed at the end, unless the test fails.
    Temporary(TempDir),
    /// Chosen by the caller, and never removed.
    Kept(PathBuf),
}

impl ProcessCluster {
    /// A cluster of `n` nodes without labels.
    pub fn with_nodes(n: usize) -> Builder {
        ProcessCluster::builder().region("", n)
    }

    /// A cluster without nodes; add them with [`Builder::region`].
    pub fn builder() -> Builder {
        let environment = Arc::new(Loopback::new());
        Builder { regions: Vec::new(), flags: Vec::new(), environment, dir: None }
    }

    /// The `i`th node.
    pub fn node(&self, i: usize) -> &ClusterNode {
        &self.nodes[i]
    }

    /// Number of nodes, running or not.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The `i`th node, for an operation on its process.
    pub fn node_mut(&mut self, i: usize) -> &mut ClusterNode {
        &mut self.nodes[i]
    }

    /// The directory with the logs.
    pub fn dir(&self) -> &Path {
        match &self.dir {
            ClusterDir::Temporary(dir) => dir.path(),
            ClusterDir::Kept(path) => path,
        }
    }

    /// Kills the `i`th node with SIGKILL and waits until it has exited.
    pub fn kill(&mut self, i: usize) {
        self.nodes[i].kill();
    }

    /// Stops the `i`th node with SIGINT, as Ctrl-C does.
    pub async fn stop(&mut self, i: usize) -> ExitStatus {
        self.nodes[i].stop().await
    }

    /// Waits until the `i`th node has exited by itself.
    pub async fn wait_exit(&mut self, i: usize) -> ExitStatus {
        self.nodes[i].wait_exit().await
    }

    /// Restarts the `i`th node with the data it has.
    pub fn restart(&mut self, i: usize) {
        self.nodes[i].start();
    }

    /// Initializes and starts a node of another cluster at the given addresses. Its name, data directory and
    /// log are those of an `i`th node.
    pub fn start_foreign_node(&self, i: usize, ports: Ports) -> ClusterNode {
        let mut node = ClusterNode::new(i, ports, self.dir(), self.environment.clone(), Vec::new());
        node.init_cluster();
        node.start();
        node
    }

    /// As [`ProcessCluster::restart`], with additional flags for this start only.
    pub fn restart_with(&mut self, i: usize, extra_flags: &[&str]) {
        self.nodes[i].start_with(extra_flags);
    }

    /// Adds a node that joins the cluster, starts it, and returns its index.
    pub fn join(&mut self, region: &str) -> usize {
        self.join_with(region, &[])
    }

    /// As [`ProcessCluster::join`], with additional flags for this node.
    pub fn join_with(&mut self, region: &str, extra_flags: &[&str]) -> usize {
        let i = self.nodes.len();
        let ports = self.ports(i);
        let mut flags: Vec<_> = extra_flags.iter().map(|&flag| flag.to_owned()).collect();
        if !region.is_empty() {
            flags.extend(["--region".to_owned(), region.to_owned()]);
        }
        // Any of them may be stopped.
        let peers: Vec<_> = self.nodes.iter().map(|node| node.ports.peer.to_string()).collect();
        if !peers.is_empty() {
            flags.extend(["--join".to_owned(), peers.join(",")]);
        }
        let mut node = ClusterNode::new(i, ports, self.dir(), self.environment.clone(), flags);
        if i == 0 {
            node.init_cluster();
        }
        node.start();
        self.nodes.push(node);
        i
    }

    /// Removes the `i`th node from the cluster for good, with the CLI and the addresses of the other running
    /// nodes.
    pub fn remove(&self, i: usize) -> impl Future<Output = CommandOutput> + Send + use<> {
        let others = self.running_nodes().filter(|&other| other != i);
        let servers: Vec<_> = others.map(|i| format!("http://{}", self.ports(i).grpc)).collect();
        let (name, servers) = (self.nodes[i].name.clone(), servers.join(","));
        async move { cli::pushonce(["cluster", "remove", &name, "--server", &servers], "").await }
    }

    /// The certificate that QUIC clients must trust.
    pub fn trust(&self) -> CertificateTrust {
        self.environment.trust()
    }

    /// The addresses of the `i`th node, whether it exists or not.
    pub fn ports(&self, i: usize) -> Ports {
        Ports::for_ip(self.environment.address(i))
    }

    /// The indices of the running nodes.
    pub fn running_nodes(&self) -> impl Iterator<Item = usize> {
        (0..self.len()).filter(|&i| self.nodes[i].is_running())
    }

    /// The cluster status as the `i`th node sees it.
    pub async fn status(&self, i: usize) -> Result<StatusResponse, String> {
        let mut client = self.admin_client(i).await?;
        let answer = client.status(StatusRequest {}).await.map_err(|error| error.to_string())?;
        Ok(answer.into_inner())
    }

    /// The placement of a topic as the `i`th node sees it.
    pub async fn explain(&self, i: usize, topic: &str) -> Result<ExplainResponse, String> {
        let mut client = self.admin_client(i).await?;
        let request = ExplainRequest { topic: topic.to_owned() };
        Ok(client.explain(request).await.map_err(|error| error.to_string())?.into_inner())
    }

    /// The index of the node that owns a topic.
    pub async fn owner_of(&self, topic: &str) -> usize {
        wait_until(&format!("an owner of {topic}"), secs(10), async || {
            let queried = self.running_nodes().next().expect("at least one node runs");
            let owner = self.explain(queried, topic).await?.owner;
            self.node_index(queried, owner).await
        })
        .await
    }

    /// Waits until every running node reports `active` active members that all hold shards, every shard is
    /// placed as wanted, and no shard moves.
    pub async fn wait_settled(&self, active: usize) {
        for i in self.running_nodes() {
            wait_until(&format!("node {i} reports a settled cluster"), secs(30), async || {
                let status = self.status(i).await?;
                check_settled(&status, active)
            })
            .await;
        }
    }

    /// The member id of the `i`th node, once the `queried` node lists it as a member.
    pub async fn node_id(&self, queried: usize, i: usize) -> u64 {
        let name = &self.nodes[i].name;
        wait_until(&format!("{name} is a member"), secs(10), async || {
            let status = self.status(queried).await?;
            let member = status.members.iter().find(|member| member.name == *name);
            member.map(|member| member.id).ok_or_else(|| "it is not listed".to_owned())
        })
        .await
    }

    /// The index of the node whose member id is `id`, according to the `queried` node.
    pub async fn node_index(&self, queried: usize, id: u64) -> Result<usize, String> {
        let status = self.status(queried).await?;
        let member = status.members.iter().find(|m| m.id == id).ok_or("no member has this id")?;
        let index = self.nodes.iter().position(|node| node.name == member.name);
        index.ok_or_else(|| format!("{} is not a node of this test", member.name))
    }

    /// A counter of `/metrics`, summed over all running nodes and all series whose labels contain `labels`.
    pub async fn metric_sum(&self, name: &str, labels: &[&str]) -> u64 {
        let mut sum = 0;
        for i in self.running_nodes() {
            let page =
                http_client::get(self.nodes[i].ports.http, "/metrics", &[]).await.expect("metrics");
            let series =
                page.body.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
            let series = series.filter(|line| labels.iter().all(|&label| line.contains(label)));
            let values = series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            sum += values.sum::<u64>();
        }
        sum
    }

    async fn admin_client(
        &self,
        i: usize,
    ) -> Result<ClusterServiceClient<tonic::transport::Channel>, String> {
        let address = format!("http://{}", self.nodes[i].ports.grpc);
        ClusterServiceClient::connect(address).await.map_err(|error| format!("{error:?}"))
    }
}

fn check_settled(status: &StatusResponse, active: usize) -> Result<(), String> {
    let members: Vec<_> = status.members.iter().filter(|m| m.state == "active").collect();
    if members.len() != active {
        return Err(format!("{} members are active, not {active}", members.len()));
    }
    // A table without the member is older than the member.
    if let Some(without_shards) =
        members.iter().find(|m| !status.shards.iter().any(|s| is_replica(s, m.id)))
    {
        return Err(format!("{} holds no shard", without_shards.name));
    }
    match status.shards.iter().find(|shard| !is_settled(shard)) {
        Some(shard) => Err(format!("{shard:?}")),
        None => Ok(()),
    }
}

fn is_replica(shard: &Shard, node: u64) -> bool {
    shard.wanted.contains(&node)
}

fn is_settled(shard: &Shard) -> bool {
    !shard.moving && shard.wanted.first() == Some(&shard.owner)
}

impl Builder {
    /// Adds `n` nodes in the given region.
    pub fn region(mut self, name: &str, n: usize) -> Builder {
        self.regions.push((name.to_owned(), n));
        self
    }

    /// Adds flags of the first node, for `init` and `serve`.
    pub fn flags(mut self, flags: &[&'static str]) -> Builder {
        self.flags.extend(flags);
        self
    }

    /// Uses another environment than loopback.
    pub fn in_environment(mut self, environment: Arc<dyn NodeEnvironment>) -> Builder {
        self.environment = environment;
        self
    }

    /// Uses an existing directory for the logs, which is kept.
    pub fn dir(mut self, path: PathBuf) -> Builder {
        self.dir = Some(path);
        self
    }

    /// Starts the nodes and waits until the cluster has settled.
    pub async fn start(self) -> ProcessCluster {
        let dir = match self.dir {
            Some(path) => ClusterDir::Kept(path),
            None => {
                ClusterDir::Temporary(tempfile::tempdir().expect("create a temporary directory"))
            }
        };
        let mut cluster = ProcessCluster { nodes: Vec::new(), dir, environment: self.environment };
        for (region, n) in &self.regions {
            for _ in 0..*n {
                let flags = if cluster.nodes.is_empty() { self.flags.as_slice() } else { &[] };
                cluster.join_with(region, flags);
            }
        }
        cluster.wait_settled(cluster.len()).await;
        cluster
    }
}

impl Drop for ProcessCluster {
    fn drop(&mut self) {
        let logs: Vec<_> = self.nodes.iter().map(|n| (n.name.clone(), n.log_text())).collect();
        self.nodes.clear();
        if !std::thread::panicking() {
            let panicked = logs.iter().find(|(_, log)| log.contains("panicked"));
            assert!(panicked.is_none(), "a node panicked: {panicked:?}");
            return;
        }
        for (name, log) in logs {
            let lines: Vec<_> = log.lines().rev().take(25).collect();
            eprintln!("--- {name}");
            lines.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        if let ClusterDir::Temporary(dir) = &mut self.dir {
            dir.disable_cleanup(true);
        }
        eprintln!("data and logs are kept in {}", self.dir().display());
    }
}
