//! Set-up: three nodes that accept the tokens of one issuer, and a session with a token at each of them.
//! Fault: the subject of the sessions is revoked at one node; the key of the issuer is replaced.
//! Claim: a ticket that one node issued opens one session at another, and a revocation ends the sessions at
//! every node within five seconds; the sessions of other subjects continue. A replaced key ends the sessions and tickets of
//! its tokens.

use std::net::SocketAddr;
use std::time::Duration;

use pushonce_auth::{AdminAccess, Grants, PatternSet};
use pushonce_cluster_tests::cli::pushonce;
use pushonce_cluster_tests::issuer::{self, TestIssuer};
use pushonce_cluster_tests::{ProcessCluster, WebSocketClient, http_client, secs};
use tokio::time::Instant;

const TOPIC: &str = "chat/7";

/// The time within which a revocation must end a session, with a margin for a loaded machine.
const REVOCATION_TIMEOUT: Duration = secs(5);

#[tokio::test]
async fn tickets_are_redeemed_at_other_nodes_and_revocations_reach_all_of_them() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let issuer = TestIssuer::write(cluster.dir());
    issuer.restart_nodes(&mut cluster).await;
    let http: Vec<_> = (0..3).map(|i| cluster.ports(i).http).collect();

    let subscribe = grants(Some("chat/*"), None);
    let (alice, bob) = (issuer.token("alice", subscribe.clone()), issuer.token("bob", subscribe));
    let ticket = issue_ticket(http[0], &alice).await;
    let query = format!("?topic={TOPIC}&ticket={ticket}");
    let mut session = WebSocketClient::open(http[1], &query).await;
    let frame = session.next_frame().await.expect("open");
    assert!(frame["subscribed"].is_object(), "{frame}");
    let mut again = WebSocketClient::open(http[2], &query).await;
    let frame = again.next_frame().await.expect("an error first");
    assert_eq!(frame["error"]["code"], "not_authenticated", "{frame}");

    let (mut revoked, mut kept) = (Vec::new(), Vec::new());
    for &server in &http {
        revoked.push(open_session(server, &alice).await);
        kept.push(open_session(server, &bob).await);
    }
    let admin = issuer.token("operator", grants(None, Some(AdminAccess::Write)));
    let admin_file = cluster.dir().join("admin.token");
    std::fs::write(&admin_file, admin).expect("writable");
    let grpc = format!("http://{}", cluster.ports(0).grpc);
    let file = admin_file.to_str().expect("UTF-8");
    let arguments =
        ["token", "revoke", "--subject", "alice", "--server", &grpc, "--token-file", file];
    pushonce(arguments, "").await.expect_success();
    let revoked_at = Instant::now();
    // The session of the ticket ends with its token.
    revoked.push(session);
    for session in &mut revoked {
        let code = loop {
            if let Err(code) = session.next_frame().await {
                break code;
            }
        };
        assert_eq!(code, 4403);
        assert!(revoked_at.elapsed() < REVOCATION_TIMEOUT, "{:?}", revoked_at.elapsed());
    }
    for session in &mut kept {
        let answer = session.request(r#"{"id":9,"unsubscribe":{"topic":"chat/7"}}"#).await;
        assert!(answer["unsubscribed"].is_object(), "{answer}");
    }
    let arguments = ["token", "revocations", "--json", "--server", &grpc, "--token-file", file];
    assert!(pushonce(arguments, "").await.expect_success().contains("alice"));
}

/// Replaces the key at the nodes of the issuer. A ticket of a removed key is as dead as its token.
#[tokio::test]
async fn replaced_key_ends_the_sessions_of_its_tokens_and_their_tickets() {
    let mut cluster = ProcessCluster::with_nodes(1).start().await;
    let mut issuer = TestIssuer::write(cluster.dir());
    issuer.restart_nodes(&mut cluster).await;
    let http = cluster.ports(0).http;
    let old = issuer.token("alice", grants(Some("chat/*"), None));
    let mut session = open_session(http, &old).await;
    let ticket = issue_ticket(http, &old).await;

    issuer.replace_key("second");
    let new = issuer.token("alice", grants(Some("chat/*"), None));
    let pid = cluster.node(0).pid().expect("the node runs");
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("the node runs");
    let reloaded_at = Instant::now();
    let code = loop {
        if let Err(code) = session.next_frame().await {
            break code;
        }
    };
    assert_eq!(code, 4403);
    assert!(reloaded_at.elapsed() < REVOCATION_TIMEOUT, "{:?}", reloaded_at.elapsed());
    let query = format!("?topic={TOPIC}&ticket={ticket}");
    let mut refused = WebSocketClient::open(http, &query).await;
    let frame = refused.next_frame().await.expect("an error first");
    assert_eq!(frame["error"]["code"], "not_authenticated", "{frame}");
    open_session(http, &new).await;
}

/// Opens a session that is subscribed to the topic.
async fn open_session(server: SocketAddr, token: &str) -> WebSocketClient {
    let mut session = issuer::open_session(server, token).await;
    session.subscribe(TOPIC).await;
    session
}

async fn issue_ticket(server: SocketAddr, token: &str) -> String {
    let header = format!("authorization: Bearer {token}");
    let response = http_client::request(server, "POST", "/tickets", &[&header], b"").await;
    let response = response.expect("a response");
    assert_eq!(response.status, 200, "{response:?}");
    response.json()["ticket"].as_str().expect("a ticket").to_owned()
}

fn grants(subscribe: Option<&str>, admin: Option<AdminAccess>) -> Grants {
    let allow = subscribe.iter().map(|text| text.parse().expect("valid")).collect();
    Grants { subscribe: PatternSet { allow, deny: Vec::new() }, admin, ..Grants::default() }
}
