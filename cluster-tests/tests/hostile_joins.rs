//! Set-up: nodes without and with certificates, subscribers on every transport and a publisher.
//! Fault: strangers at the port between nodes: silent connections, clients with a token, joins without credentials, with
//! forged and with used join tokens, joins that never come and name addresses that hang, and calls in the name of
//! another cluster.
//! Claim: members and term stay; the member list does not fill for good; no node leaves, adopts an address or dials
//! without bound; other clients are not affected, and memory and descriptors return to the baseline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pushonce_ca::JoinToken;
use pushonce_cluster_tests::cli::pushonce;
use pushonce_cluster_tests::hostile::{
    Bystanders, Footprint, HTTP2_PREFACE, STRANGER, Stranger, WEBSOCKET_HANDSHAKE,
};
use pushonce_cluster_tests::{ProcessCluster, http_client, secs, wait_until};
use pushonce_core::{ClusterId, HostPort};
use pushonce_peer::{AuthorityPin, connect_to_join};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::membership_service_client::MembershipServiceClient;
use pushonce_proto::pb::peer::v1::raft_service_client::RaftServiceClient;
use pushonce_proto::pb::publisher::v1::PublishRequest;
use pushonce_proto::pb::publisher::v1::publisher_service_client::PublisherServiceClient;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Members that have joined and are not active (`TooManyJoining`).
const JOINING_MAX: usize = 32;

/// A gRPC connection from [`STRANGER`] to the port between nodes.
async fn connect(peer: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{peer}")).expect("a URL");
    let endpoint = endpoint.local_address(Some(STRANGER.into())).timeout(secs(20));
    endpoint.connect().await.expect("connected")
}

/// The join of a new node that listens at `peer`, with the secret of a token.
fn join_request(number: usize, peer: &str, secret: &[u8]) -> pb::JoinRequest {
    pb::JoinRequest {
        incarnation: (1_000 + number as u128).to_be_bytes().to_vec().into(),
        name: format!("stranger-{number}"),
        addresses: Some(pb::Addresses { peer: peer.to_owned(), ..pb::Addresses::default() }),
        roles: "core,edge".to_owned(),
        weight: 1,
        run: 1,
        starting: true,
        join_secret: secret.to_vec().into(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        version_min: 1,
        version_max: 1,
        ..pb::JoinRequest::default()
    }
}

/// What strangers must not change: the members, and the term of the control group.
async fn members_and_term(cluster: &ProcessCluster) -> (Vec<u64>, u64) {
    let status = cluster.status(0).await.expect("the node answers");
    (status.members.iter().map(|member| member.id).collect(), status.control_term)
}

async fn is_ready(cluster: &ProcessCluster, i: usize) -> bool {
    let answer = http_client::get(cluster.ports(i).http, "/health/ready", &[]).await;
    answer.is_ok_and(|answer| answer.status == 200)
}

/// Listens and never answers. Counts the connections that are open at the same time.
struct HangingListener {
    address: SocketAddr,
    open_max: Arc<AtomicUsize>,
}

impl HangingListener {
    async fn bind() -> HangingListener {
        let listener = TcpListener::bind(SocketAddr::from((STRANGER, 0)))
            .await
            .expect("an address of this host");
        let address = listener.local_addr().expect("bound");
        let (open, open_max) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let maximum = open_max.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (open, maximum) = (open.clone(), maximum.clone());
                maximum.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::spawn(async move {
                    // Until the node gives up.
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        HangingListener { address, open_max }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_and_clients_on_the_port_between_nodes_are_not_noticed() {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let peer = cluster.ports(0).peer;
    let mut bystanders = Bystanders::connect(&cluster).await;
    bystanders.assert_served(3).await;
    let before = members_and_term(&cluster).await;
    let baseline = Footprint::of(cluster.node(0));

    let mut publisher = PublisherServiceClient::new(connect(peer).await);
    let mut request = Request::new(PublishRequest {
        topic: "bystanders/score".to_owned(),
        payload: "forged".into(),
        ..PublishRequest::default()
    });
    let token = "Bearer a.b.c".parse().expect("ASCII");
    request.metadata_mut().insert("authorization", token);
    let status = publisher.publish(request).await.expect_err("no service for clients");
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    drop(publisher);

    // More than one address may have, whatever the limit of descriptors.
    let mut strangers = Vec::new();
    for nth in 0..600 {
        let mut stranger = Stranger::connect(peer).await;
        let first: &[u8] = [b"", &HTTP2_PREFACE[..5], WEBSOCKET_HANDSHAKE][nth % 3];
        stranger.send(first).await;
        strangers.push(stranger);
        if nth % 100 == 0 {
            bystanders.assert_served(1).await;
        }
    }
    let rejected = "pushonce_listener_connections_rejected_total";
    let of_address = ["listener=\"peer\"", "reason=\"address\""];
    assert!(cluster.metric_sum(rejected, &of_address).await > 0, "an address has its maximum");
    for stranger in &mut strangers {
        stranger.wait_closed(secs(60)).await;
    }
    drop(strangers);
    bystanders.assert_served(3).await;
    assert_eq!(members_and_term(&cluster).await, before);
    baseline.wait_restored(cluster.node(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_that_never_come_fill_no_list_for_good_and_are_dialled_within_bounds() {
    /// Concurrent connections to one address: consensus, link, calls, and the one that is just given up.
    const DIALS_MAX: usize = 4;
    let mut cluster = ProcessCluster::with_nodes(1).start().await;
    let mut bystanders = Bystanders::connect(&cluster).await;
    bystanders.assert_served(3).await;
    let baseline = Footprint::of(cluster.node(0));
    let mut client = MembershipServiceClient::new(connect(cluster.ports(0).peer).await);
    let mut listeners = Vec::new();
    let mut refused = None;
    for number in 0..2 * JOINING_MAX {
        let listener = HangingListener::bind().await;
        let request = join_request(number, &listener.address.to_string(), b"");
        match client.join(request).await {
            Ok(response) => {
                let refusal = response.into_inner().refusal;
                assert_eq!(refusal, None, "join {number}");
                listeners.push(listener);
            }
            Err(status) => {
                refused = Some(status);
                break;
            }
        }
    }
    let refused = refused.expect("the member list is bounded");
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("still joining"), "{refused:?}");
    assert_eq!(listeners.len(), JOINING_MAX);

    wait_until("the node dials what the members name", secs(60), async || {
        let dialled = |it: &HangingListener| it.open_max.load(Ordering::Relaxed) > 0;
        let count = listeners.iter().filter(|listener| dialled(listener)).count();
        if count == listeners.len() { Ok(()) } else { Err(format!("{count} were dialled")) }
    })
    .await;
    for _ in 0..20 {
        tokio::time::sleep(secs(1)).await;
        bystanders.assert_served(1).await;
        let held = Footprint::of(cluster.node(0)).descriptors - baseline.descriptors;
        assert!(held <= DIALS_MAX * JOINING_MAX, "{held} descriptors for members that never came");
    }
    for listener in &listeners {
        let open_max = listener.open_max.load(Ordering::Relaxed);
        assert!(open_max <= DIALS_MAX, "{open_max} connections to one address at once");
    }

    // The ten minutes after which such a member is dropped are too long for a test; an operator need not wait.
    drop(client);
    let server = format!("http://{}", cluster.ports(0).grpc);
    for number in 0..JOINING_MAX {
        let name = format!("stranger-{number}");
        let removed = pushonce(["cluster", "remove", &name, "--server", &server], "").await;
        assert!(removed.status.success(), "{}", removed.stderr);
    }
    baseline.wait_restored(cluster.node(0)).await;
    cluster.join("");
    cluster.wait_settled(2).await;
    bystanders.assert_served(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_in_the_name_of_another_cluster_make_no_node_leave_or_adopt_anything() {
    let cluster = ProcessCluster::with_nodes(3).start().await;
    let mut bystanders = Bystanders::connect(&cluster).await;
    bystanders.assert_served(3).await;
    let before = members_and_term(&cluster).await;
    let peer = cluster.ports(0).peer;
    let own: ClusterId =
        cluster.status(0).await.expect("an answer").cluster_id.parse().expect("a cluster id");
    let fake = HangingListener::bind().await;
    let mut client = MembershipServiceClient::new(connect(peer).await);
    // As many members of another cluster as a stranger can invent, and members of this one at another address.
    for (cluster_id, expected_node) in [(ClusterId(own.0 ^ 1), 1), (own, 0)] {
        for node_id in 1..=45 {
            let request = pb::IdentifyRequest {
                cluster_id: cluster_id.0.to_be_bytes().to_vec().into(),
                node_id,
                peer_address: fake.address.to_string(),
                expected_node,
            };
            client.identify(request).await.expect("an answer");
        }
        bystanders.assert_served(1).await;
    }
    let greetings = [(ClusterId(own.0 ^ 1), "2"), (own, "77"), (own, "1")];
    for (cluster_id, from) in greetings {
        let status = forge_raft_message(peer, cluster_id, from).await;
        assert_ne!(status.code(), Code::Ok, "a message of n{from} of {cluster_id}");
    }
    // Longer than the interval at which a node evaluates the calls.
    for _ in 0..10 {
        tokio::time::sleep(secs(1)).await;
        bystanders.assert_served(1).await;
        assert!(is_ready(&cluster, 0).await, "{}", cluster.node(0).log_text());
    }
    let status = cluster.status(0).await.expect("an answer");
    assert_eq!(status.conflicting_cluster_id, "");
    let adopted = status
        .members
        .iter()
        .any(|member| format!("{member:?}").contains(&fake.address.to_string()));
    assert!(!adopted, "{:?}", status.members);
    assert_eq!(members_and_term(&cluster).await, before);
}

/// Sends a vote in the name of a node; returns how it was rejected.
async fn forge_raft_message(peer: SocketAddr, cluster: ClusterId, from: &str) -> Status {
    let vote = pb::RaftRequest {
        id: 1,
        group: 0,
        kind: pb::raft_request::Kind::Vote.into(),
        body: vec![0xff; 32].into(),
    };
    let frame = pb::ExchangeRequest { requests: vec![vote], ..pb::ExchangeRequest::default() };
    let mut request = Request::new(futures::stream::iter([frame]));
    let greeting = [
        ("pushonce-cluster", cluster.to_string()),
        ("pushonce-from", from.to_owned()),
        ("pushonce-to", "1".to_owned()),
        ("pushonce-versions", "1 1 1".to_owned()),
    ];
    for (key, value) in greeting {
        request.metadata_mut().insert(key, value.parse().expect("ASCII"));
    }
    RaftServiceClient::new(connect(peer).await).exchange(request).await.expect_err("rejected")
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_without_credentials_with_forged_and_with_used_tokens_change_nothing() {
    let files = tempfile::tempdir().expect("create a temporary directory");
    let mut cluster = ProcessCluster::with_nodes(0).start().await;
    let flags = founder_flags(&files).await;
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    cluster.join_with("", &flags);
    cluster.wait_settled(1).await;
    let server = format!("http://{}", cluster.ports(0).grpc);
    let token_text = run(&["cluster", "token", "--expires-in", "1h", "--server", &server]).await;
    let token: JoinToken = token_text.trim().parse().expect("a join token");
    let token_file = path(&files, "token");
    std::fs::write(&token_file, &token_text).expect("written");
    cluster.join_with("", &["--join-token-file", &token_file]);
    cluster.wait_settled(2).await;

    let mut bystanders = Bystanders::connect(&cluster).await;
    bystanders.assert_served(3).await;
    let before = members_and_term(&cluster).await;
    let applied = cluster.status(0).await.expect("an answer").control_applied;
    let baseline = Footprint::of(cluster.node(0));
    let pin = AuthorityPin { cluster: token.cluster, authority: token.authority };
    let address: HostPort = cluster.ports(0).peer.to_string().parse().expect("an address");
    let forged: [u8; JoinToken::SECRET_BYTES] = rand::random();
    for (name, secret) in [("no", &b""[..]), ("a forged", &forged), ("a used", token.secret())] {
        for number in 0..30 {
            let channel = connect_to_join(pin, &address, secs(20)).await.expect("joiners connect");
            let mut client = MembershipServiceClient::new(channel);
            let response = client.join(join_request(number, "127.0.0.2:7091", secret)).await;
            // A caller that asks too often gets no answer at all.
            let is_refused = response.map_or(true, |it| it.into_inner().refusal.is_some());
            assert!(is_refused, "a stranger joined with {name} token");
        }
        bystanders.assert_served(1).await;
    }
    // No certificate, no TLS.
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("a URL");
    let plain = match endpoint.connect_timeout(secs(20)).timeout(secs(20)).connect().await {
        Ok(channel) => MembershipServiceClient::new(channel)
            .join(join_request(90, "127.0.0.2:7091", b""))
            .await
            .is_err(),
        Err(_) => true,
    };
    assert!(plain, "a join in plain text was answered");
    assert_eq!(members_and_term(&cluster).await, before);
    // Heartbeats of members are entries too, but none of the joins is.
    let later = cluster.status(0).await.expect("an answer").control_applied;
    assert!(later < applied + 60, "{} entries of the control group", later - applied);
    bystanders.assert_served(3).await;
    baseline.wait_restored(cluster.node(0)).await;
}

fn path(files: &TempDir, name: &str) -> String {
    files.path().join(name).to_str().expect("UTF-8").to_owned()
}

async fn run(args: &[&str]) -> String {
    let output = pushonce(args, "").await;
    assert!(output.status.success(), "{args:?}: {}", output.stderr);
    output.stdout
}

/// The flags of a first node that certifies others.
async fn founder_flags(files: &TempDir) -> Vec<String> {
    let (authority, out) = (path(files, "ca"), path(files, "node-1"));
    run(&["ca", "init", "--dir", &authority]).await;
    let issue = ["ca", "issue", "--dir", &authority, "--node", "1", "--out", &out];
    run(&[&issue[..], &["--host", "127.0.0.1"]].concat()).await;
    let file = |directory: &str, name: &str| path(files, &format!("{directory}/{name}"));
    [
        ["--peer-cert", &file("node-1", "node-1.crt")],
        ["--peer-key", &file("node-1", "node-1.key")],
        ["--peer-ca", &file("ca", "ca.crt")],
        ["--peer-ca-key", &file("ca", "ca.key")],
        ["--shards", "2"],
    ]
    .concat()
    .into_iter()
    .map(str::to_owned)
    .collect()
}
