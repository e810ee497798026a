//! Set-up: three nodes that accept the tokens of one issuer, and a session with a token at each of them.
//! Fault: the subject of the sessions is revoked at one node.
//! Claim: a ticket that one node issued opens one session at another, and a revocation ends the sessions at
//! every node within five seconds; the sessions of other subjects continue.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pushonce_auth::{AdminAccess, Grants, NewToken, PatternSet, SigningKey};
use pushonce_cluster_tests::cli::pushonce;
use pushonce_cluster_tests::{ProcessCluster, WebSocketClient, http_client, secs, wait_until};
use pushonce_core::Timestamp;
use tokio::time::Instant;

const SECRET: &str = "a secret of the test, thirty-two bytes or more";
const TOPIC: &str = "chat/7";

/// The time within which a revocation must end a session, with a margin for a loaded machine.
const REVOCATION_TIMEOUT: Duration = secs(5);

#[tokio::test]
async fn tickets_are_redeemed_at_other_nodes_and_revocations_reach_all_of_them() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let issuers = write_issuers(cluster.dir());
    // The test support asks for the state of the cluster without a token until it has settled.
    (0..3).for_each(|i| cluster.kill(i));
    for i in 0..3 {
        cluster.restart_with(i, &["--issuers", &issuers]);
    }
    let http: Vec<_> = (0..3).map(|i| cluster.ports(i).http).collect();
    for &server in &http {
        let is_ready = async || match http_client::get(server, "/health/ready", &[]).await {
            Ok(response) if response.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        };
        wait_until("the node is ready", secs(30), is_ready).await;
    }

    let subscribe = grants(Some("chat/*"), None);
    let (alice, bob) = (token("alice", subscribe.clone()), token("bob", subscribe));
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
    let admin = token("operator", grants(None, Some(AdminAccess::Write)));
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

/// Opens a session that is subscribed to the topic.
async fn open_session(server: SocketAddr, token: &str) -> WebSocketClient {
    let mut session = WebSocketClient::open(server, "").await;
    let frame = format!(r#"{{"id":1,"authenticate":{{"token":"{token}"}}}}"#);
    let answer = session.request(&frame).await;
    assert!(answer["authenticated"].is_object(), "{answer}");
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

fn write_issuers(directory: &Path) -> String {
    let (secret, issuers) = (directory.join("secret"), directory.join("issuers.toml"));
    std::fs::write(&secret, SECRET).expect("writable");
    let text = format!(
        "[[issuer]]\nissuer = \"test\"\naudience = \"pushonce\"\n[[issuer.key]]\n\
         algorithm = \"HS256\"\nsecret-file = {secret:?}\n"
    );
    std::fs::write(&issuers, text).expect("writable");
    issuers.to_str().expect("UTF-8").to_owned()
}

fn grants(subscribe: Option<&str>, admin: Option<AdminAccess>) -> Grants {
    let allow = subscribe.iter().map(|text| text.parse().expect("valid")).collect();
    Grants { subscribe: PatternSet { allow, deny: Vec::new() }, admin, ..Grants::default() }
}

/// A token that is valid for an hour.
fn token(subject: &str, grants: Grants) -> String {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let now = since_epoch.as_millis() as u64;
    let token = NewToken {
        issuer: "test".to_owned(),
        audience: "pushonce".to_owned(),
        subject: Some(subject.to_owned()),
        token_id: None,
        issued_at: Timestamp(now),
        expires_at: Timestamp(now + 3_600_000),
        grants,
    };
    token.sign(&SigningKey::from_secret(SECRET.as_bytes()).expect("long"), None).expect("signed")
}
