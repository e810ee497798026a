//! Set-up: nodes that authenticate each other with the certificates of a private authority, under load.
//! Fault: strangers try to join and to send Raft messages; every certificate and the authority are replaced.
//! Claim: strangers change neither members nor term; a certificate gives its node exactly its id; a join token
//! admits one node, which gets a certificate and renews it; no publish is lost while certificates are replaced,
//! and a restarted node uses the new ones.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pushonce_ca::{CertificateAuthority, CertificateInfo, Fingerprint};
use pushonce_client::{PublishFailure, Transport};
use pushonce_cluster_tests::cli::{CommandOutput, pushonce};
use pushonce_cluster_tests::{ProcessCluster, SentMessage, secs, wait_until};
use pushonce_core::{ClusterId, HostPort, NodeId, SpiffeId, StartFrom};
use pushonce_peer::{AuthorityPin, connect_to_join};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::raft_service_client::RaftServiceClient;
use serde_json::Value;
use tempfile::TempDir;
use tonic::Code;

/// Elections take several seconds, so that a busy machine causes none. The number of shards does not matter.
const FIRST_NODE_FLAGS: [&str; 4] = ["--consensus", "wan", "--shards", "2"];

/// Authorities, and for each node a directory with its files.
struct Files(TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("create a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// Makes an authority: of a new cluster, or another one of a given cluster.
    async fn make_authority(&self, name: &str, cluster: Option<&str>) -> Value {
        let dir = self.text(name);
        let mut args = vec!["--json", "ca", "init", "--dir", &dir];
        args.extend(cluster.iter().flat_map(|id| ["--cluster", id]));
        json(&run(&args).await)
    }

    /// Issues the certificate of a node, and returns the flags that use it.
    async fn issue(&self, authority: &str, node: u64) -> Vec<String> {
        self.issue_to(authority, node, &format!("{authority}-node-{node}")).await
    }

    async fn issue_to(&self, authority: &str, node: u64, directory: &str) -> Vec<String> {
        let (dir, out) = (self.text(authority), self.text(directory));
        let id = node.to_string();
        let host = ["--host", "127.0.0.1"];
        run(&[&["ca", "issue", "--dir", &dir, "--node", &id, "--out", &out], &host[..]].concat())
            .await;
        let out = Path::new(&out);
        std::fs::copy(self.path(authority).join("ca.crt"), out.join("ca.crt")).expect("copied");
        let file = |name: &str| out.join(name).to_str().expect("UTF-8").to_owned();
        let [certificate, key] = ["crt", "key"].map(|kind| file(&format!("node-{id}.{kind}")));
        ["--peer-cert", &certificate, "--peer-key", &key, "--peer-ca", &file("ca.crt")]
            .map(str::to_owned)
            .to_vec()
    }

    /// The flags of the node that certifies others.
    fn with_authority_key(&self, mut flags: Vec<String>, authority: &str) -> Vec<String> {
        let key = self.path(authority).join("ca.key");
        flags.extend(["--peer-ca-key".to_owned(), key.to_str().expect("UTF-8").to_owned()]);
        flags
    }
}

async fn run(args: &[&str]) -> CommandOutput {
    let output = pushonce(args, "").await;
    assert!(output.status.success(), "{args:?}: {}", output.stderr);
    output
}

fn json(output: &CommandOutput) -> Value {
    serde_json::from_str(&output.stdout).expect("JSON")
}

fn join_with(cluster: &mut ProcessCluster, flags: &[String]) -> usize {
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    cluster.join_with("", &flags)
}

/// What strangers must not change: the members, and the term of the control group.
async fn members_and_term(cluster: &ProcessCluster) -> (Vec<u64>, u64) {
    let status = cluster.status(0).await.expect("the node answers");
    (status.members.iter().map(|member| member.id).collect(), status.control_term)
}

async fn wait_log(cluster: &ProcessCluster, i: usize, text: &str, count: usize) {
    wait_until(&format!("{count} times {text:?} in the log of node {i}"), secs(30), async || {
        let found = cluster.node(i).log_text().matches(text).count();
        if found >= count { Ok(()) } else { Err(format!("{found} times")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_under_load_and_strangers_change_nothing() {
    let files = Files::new();
    let authority = files.make_authority("ca", None).await;
    let cluster_id = authority["cluster"].as_str().expect("an id").to_owned();
    let mut cluster = ProcessCluster::with_nodes(0).start().await;
    for node in [1, 3, 2] {
        let mut flags = files.issue("ca", node).await;
        if node == 1 {
            flags.extend(FIRST_NODE_FLAGS.map(str::to_owned));
        }
        join_with(&mut cluster, &flags);
    }
    cluster.wait_settled(3).await;
    let status = cluster.status(0).await.expect("the node answers");
    assert_eq!(status.cluster_id, cluster_id, "the certificate names the cluster");
    let ids =
        [cluster.node_id(0, 0).await, cluster.node_id(0, 1).await, cluster.node_id(0, 2).await];
    assert_eq!(ids, [1, 3, 2], "the certificates name the nodes");

    let topics = ["game/1".to_owned(), "game/2".to_owned()];
    let mut load = cluster.start_load(0, &topics);
    load.wait_acknowledged(5, secs(30)).await;

    strangers_change_nothing(&mut cluster, &files).await;
    load.wait_acknowledged(5, secs(30)).await;

    let nodes = [(0, 1), (1, 3), (2, 2)];
    let mut replaced = [0; 3];
    let mut replace = async |cluster: &ProcessCluster, i: usize| {
        replaced[i] += 1;
        cluster.node(i).hang_up();
        let text = "the certificate for connections between nodes is replaced";
        wait_log(cluster, i, text, replaced[i]).await;
    };
    let ca_file = |id: u64| files.path(&format!("ca-node-{id}")).join("ca.crt");
    let certificate = |id: u64| files.text(&format!("ca-node-{id}/node-{id}.crt"));
    for (i, id) in nodes {
        run(&["ca", "renew", "--dir", &files.text("ca"), &certificate(id)]).await;
        replace(&cluster, i).await;
        load.wait_acknowledged(5, secs(30)).await;
    }
    files.make_authority("new-ca", Some(&cluster_id)).await;
    let new_authority =
        std::fs::read_to_string(files.path("new-ca").join("ca.crt")).expect("readable");
    for (i, id) in nodes {
        let both = std::fs::read_to_string(ca_file(id)).expect("readable") + &new_authority;
        std::fs::write(ca_file(id), both).expect("written");
        replace(&cluster, i).await;
    }
    for (i, id) in nodes {
        run(&["ca", "renew", "--dir", &files.text("new-ca"), &certificate(id)]).await;
        replace(&cluster, i).await;
        load.wait_acknowledged(5, secs(30)).await;
    }
    for (i, id) in nodes {
        std::fs::write(ca_file(id), &new_authority).expect("written");
        replace(&cluster, i).await;
        load.wait_acknowledged(5, secs(30)).await;
    }
    for (topic, sent) in load.stop().await {
        let is_rejected =
            |sent: &&SentMessage| matches!(sent.outcome, Err(PublishFailure::Rejected { .. }));
        let rejected: Vec<_> = sent.iter().filter(is_rejected).collect();
        assert!(rejected.is_empty(), "{topic}: {rejected:?}");
        let mut viewer = cluster.subscriber(1, Transport::Ws, &topic, StartFrom::Start);
        let last = SentMessage::last_position(&sent);
        SentMessage::check_log(&sent, &viewer.messages_up_to(last, secs(10)).await);
    }
    cluster.kill(1);
    cluster.restart(1);
    cluster.wait_settled(3).await;
}

/// Nodes without a certificate, of another authority, and with the id of a member try to join.
async fn strangers_change_nothing(cluster: &mut ProcessCluster, files: &Files) {
    let before = members_and_term(cluster).await;
    files.make_authority("other-ca", None).await;
    let other_authority = files.issue("other-ca", 4).await;
    for (name, flags) in [("no certificate", vec![]), ("another authority", other_authority)] {
        let stranger = join_with(cluster, &flags);
        wait_log(cluster, stranger, "cannot join", 1).await;
        cluster.kill(stranger);
        assert_eq!(members_and_term(cluster).await, before, "{name}");
    }
    let rejected = "pushonce_peer_handshakes_rejected_total";
    assert!(cluster.metric_sum(rejected, &["reason=\"plaintext\""]).await > 0);

    let second_n3 = files.issue_to("ca", 3, "second-node-3").await;
    let stranger = join_with(cluster, &second_n3);
    assert_eq!(cluster.wait_exit(stranger).await.code(), Some(1));
    let log = cluster.node(stranger).log_text();
    assert!(log.contains("ids are not reused"), "{log}");
    assert_eq!(members_and_term(cluster).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn join_token_admits_one_node_which_gets_a_certificate() {
    let files = Files::new();
    let authority = files.make_authority("ca", None).await;
    let mut cluster = ProcessCluster::with_nodes(0).start().await;
    let mut flags = files.issue("ca", 1).await;
    flags.extend(FIRST_NODE_FLAGS.map(str::to_owned));
    join_with(&mut cluster, &files.with_authority_key(flags, "ca"));
    cluster.wait_settled(1).await;
    let server = format!("http://{}", cluster.ports(0).grpc);
    let make_token = async |name: &str, expires_in: &str| {
        let args = ["cluster", "token", "--expires-in", expires_in, "--server", &server];
        let token = run(&args).await.stdout;
        std::fs::write(files.path(name), token).expect("written");
        vec!["--join-token-file".to_owned(), files.text(name)]
    };

    let token = make_token("token", "1h").await;
    let expired = make_token("expired", "1ms").await;
    // Two nodes race for one token. The name of one of them is then free again.
    let racers = [join_with(&mut cluster, &token), join_with(&mut cluster, &token)];
    let loser = wait_until("one of two nodes is rejected", secs(60), async || {
        let exited = racers.into_iter().find(|&i| cluster.node_mut(i).has_exited());
        exited.ok_or_else(|| "both run".to_owned())
    })
    .await;
    let winner = racers.into_iter().find(|&i| i != loser).expect("there are two");
    cluster.wait_settled(2).await;
    assert!(cluster.node(loser).log_text().contains("joined with this token"));
    let id = cluster.node_id(0, winner).await;

    let listed = json(&run(&["--json", "cluster", "tokens", "--server", &server]).await);
    let users: Vec<_> = listed["tokens"].as_array().expect("a list").iter().collect();
    assert!(users.iter().any(|token| token["used_by"] == id), "{listed}");

    let before = members_and_term(&cluster).await;
    for (flags, expected) in [(token, "joined with this token"), (expired, "has expired")] {
        let stranger = join_with(&mut cluster, &flags);
        assert_eq!(cluster.wait_exit(stranger).await.code(), Some(1));
        let log = cluster.node(stranger).log_text();
        assert!(log.contains(expected), "{expected:?} is not in: {log}");
    }
    forged_raft_message_is_rejected(&cluster, &authority).await;
    assert_eq!(members_and_term(&cluster).await, before);

    // It uses the certificate that it got, and needs no token any more.
    std::fs::remove_file(files.path("token")).expect("removed");
    assert!(cluster.stop(winner).await.success());
    cluster.restart(winner);
    cluster.wait_settled(2).await;
    assert_eq!(cluster.node_id(0, winner).await, id);
    certificate_is_renewed_in_time(&mut cluster, &files, winner, id).await;
}

/// The node that joined with a token gets a certificate of which less than a third of the validity is left.
async fn certificate_is_renewed_in_time(
    cluster: &mut ProcessCluster,
    files: &Files,
    i: usize,
    id: u64,
) {
    assert!(cluster.stop(i).await.success());
    let read = |name| std::fs::read_to_string(files.path("ca").join(name)).expect("readable");
    let authority = CertificateAuthority::from_pem(&read("ca.crt"), &read("ca.key"));
    let authority = authority.expect("an authority");
    let cluster_id = authority.cluster().expect("the authority names the cluster");
    let node = SpiffeId { cluster: cluster_id, node: NodeId(id) };
    let (validity, issued_at) = (secs(3_600), SystemTime::now() - secs(3_000));
    let old = authority.issue(node, &[], validity, issued_at).expect("issued");
    let path = cluster.node(i).data_dir().join("peer.pem");
    let text = [old.key.expose(), &old.certificate, &read("ca.crt")].concat();
    std::fs::write(&path, &text).expect("written");
    cluster.restart(i);
    cluster.wait_settled(2).await;
    wait_until("the certificate is renewed", secs(30), async || {
        // Otherwise the node tries again after half a minute.
        cluster.node(i).hang_up();
        let stored = std::fs::read_to_string(&path).expect("readable");
        let (_, leaf) = CertificateInfo::parse_pem(&stored).expect("certificates").remove(0);
        let is_renewed = leaf.node() == Ok(node) && leaf.not_after > SystemTime::now() + validity;
        if is_renewed { Ok(()) } else { Err(format!("{leaf:?}")) }
    })
    .await;
    wait_log(cluster, i, "the certificate for connections between nodes is replaced", 1).await;
    cluster.wait_settled(2).await;
}

/// A host without a certificate reaches the port, since nodes may join there, and nothing but the join.
async fn forged_raft_message_is_rejected(cluster: &ProcessCluster, authority: &Value) {
    let text = |name: &str| authority[name].as_str().expect("a text").to_owned();
    let mut fingerprint = [0; 32];
    for (byte, digits) in fingerprint.iter_mut().zip(text("fingerprint").as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).expect("ASCII");
        *byte = u8::from_str_radix(digits, 16).expect("hexadecimal digits");
    }
    let cluster_id: ClusterId = text("cluster").parse().expect("a cluster id");
    let pin = AuthorityPin { cluster: cluster_id, authority: Fingerprint(fingerprint) };
    let address: HostPort = cluster.ports(0).peer.to_string().parse().expect("an address");
    let channel = connect_to_join(pin, &address, secs(10)).await.expect("joiners may connect");
    let vote = pb::RaftRequest {
        id: 1,
        group: 0,
        kind: pb::raft_request::Kind::Vote.into(),
        body: vec![0xff; 32].into(),
    };
    let forged = pb::ExchangeRequest { requests: vec![vote], ..pb::ExchangeRequest::default() };
    let mut request = tonic::Request::new(futures::stream::iter([forged]));
    let greeting = [
        ("pushonce-cluster", text("cluster")),
        ("pushonce-from", "2".to_owned()),
        ("pushonce-to", "1".to_owned()),
        ("pushonce-versions", "1 1 1".to_owned()),
    ];
    for (key, value) in greeting {
        request.metadata_mut().insert(key, value.parse().expect("ASCII"));
    }
    let status = RaftServiceClient::new(channel).exchange(request).await.expect_err("rejected");
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
}
