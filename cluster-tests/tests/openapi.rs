//! Set-up: two nodes, first open to everyone, then with the tokens of an issuer; `proto/openapi.yaml`.
//! Fault: invalid requests of each kind; one node is killed at the end.
//! Claim: every response is documented (status, headers, content type, body by its schema), and every documented status
//! occurs, except those that `UNREACHED` names with a reason.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use pushonce_auth::{AdminAccess, Grants, PatternSet};
use pushonce_cluster_tests::cli::pushonce;
use pushonce_cluster_tests::http_client::{self, HttpResponse};
use pushonce_cluster_tests::issuer::TestIssuer;
use pushonce_cluster_tests::{ProcessCluster, secs, wait_until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const DESCRIPTION: &str = include_str!("../../proto/openapi.yaml");

/// Headers of every response, which the introduction of the description names, and those of HTTP itself.
const COMMON_HEADERS: [&str; 15] = [
    "access-control-allow-origin",
    "access-control-expose-headers",
    "cache-control",
    "connection",
    "content-length",
    "content-security-policy",
    "content-type",
    "cross-origin-resource-policy",
    "date",
    "referrer-policy",
    "sec-websocket-accept",
    "transfer-encoding",
    "upgrade",
    "vary",
    "x-content-type-options",
];

/// Documented statuses that this test cannot cause, by the end of `METHOD PATH STATUS`, and the test that does.
const UNREACHED: [(&str, &str); 12] = [
    ("post /topics/{topic} 408", "a body that takes 30 s: hostile_http"),
    ("post /tickets 408", "as above"),
    (
        "post /topics/{topic} 504",
        "an owner that ends between append and acknowledgement: node_killed",
    ),
    (
        "get /topics/{topic} 429",
        "failed tokens from an address that is not loopback: gateway tests",
    ),
    ("get /sse 429", "as above"),
    ("get /ws 429", "as above"),
    ("get /cluster 429", "as above"),
    ("get /metrics 429", "as above"),
    ("post /tickets 429", "as above"),
    ("get /sse 503", "a node whose memory is short: gateway tests"),
    ("get /ws 503", "as above"),
    ("post /tickets 503", "a caller with 256 tickets: gateway tests"),
];

/// The description, and the statuses that were seen.
struct Checker {
    description: Value,
    seen: BTreeSet<String>,
}

/// A request, and the path of the description that it belongs to.
struct Call<'c> {
    method: &'c str,
    path: &'c str,
    target: &'c str,
    headers: Vec<&'c str>,
    body: &'c [u8],
}

fn get<'c>(path: &'c str, target: &'c str, headers: &[&'c str]) -> Call<'c> {
    Call { method: "GET", path, target, headers: headers.to_vec(), body: b"" }
}

fn post<'c>(path: &'c str, target: &'c str, headers: &[&'c str], body: &'c [u8]) -> Call<'c> {
    Call { method: "POST", path, target, headers: headers.to_vec(), body }
}

const TOPIC: &str = "/topics/{topic}";
const EVENT_STREAM: &str = "accept: text/event-stream";
const FOREIGN: &str = "origin: https://evil.example";
const HANDSHAKE: [&str; 3] = [
    "upgrade: websocket",
    "sec-websocket-version: 13",
    "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_response_is_as_described() {
    let mut checker = Checker::new();
    let mut cluster = ProcessCluster::with_nodes(2).start().await;
    let server = cluster.ports(0).http;
    set_namespaces(&cluster).await;
    let (first, last) = publish_and_read(&mut checker, server).await;
    read_pages(&mut checker, server, &first, &last).await;
    open_streams(&mut checker, server).await;
    ask_the_node(&mut checker, server).await;
    refuse_foreign_pages(&mut checker, server).await;

    let issuer = TestIssuer::write(cluster.dir());
    issuer.restart_nodes(&mut cluster).await;
    refuse_without_grants(&mut checker, server, &issuer).await;
    cluster.kill(1);
    lose_the_majority(&mut checker, server, &issuer).await;
    checker.finish();
}

async fn set_namespaces(cluster: &ProcessCluster) {
    let server = format!("http://{}", cluster.ports(0).grpc);
    for (name, setting, value) in [
        ("short", "--history-count", "2"),
        ("small", "--payload-max", "4"),
        ("few", "--topics-max", "1"),
        ("slow", "--publish-rate", "1"),
    ] {
        let set = ["namespace", "set", name, setting, value, "--server", &server];
        pushonce(set, "").await.expect_success();
    }
}

/// Returns the first and the last position of `chat/7`.
async fn publish_and_read(checker: &mut Checker, server: SocketAddr) -> (String, String) {
    let ack = checker.expect(server, post(TOPIC, "/topics/chat/7", &[], b"one"), 200).await.json();
    let first = ack["position"].as_str().expect("a position").to_owned();
    let keyed =
        |body: &'static [u8]| post(TOPIC, "/topics/chat%2F7", &["idempotency-key: \"a1\""], body);
    let ack = checker.expect(server, keyed(b"{\"goal\":1}"), 200).await.json();
    let last = ack["position"].as_str().expect("a position").to_owned();
    checker.expect(server, keyed(b"other"), 422).await;
    checker.expect(server, post(TOPIC, "/topics/chat//7", &[], b""), 400).await;
    checker.expect(server, post(TOPIC, "/topics/small/1", &[], b"too long"), 413).await;
    for nth in 0..200 {
        let target = format!("/topics/few/{nth}");
        if checker.call(server, post(TOPIC, &target, &[], b"x")).await.status == 507 {
            break;
        }
    }

    let newest = checker.expect(server, get(TOPIC, "/topics/chat/7", &[]), 200).await;
    assert_eq!(newest.body, "{\"goal\":1}");
    let copy = format!("if-none-match: {}", newest.header("etag").expect("a tag"));
    checker.expect(server, get(TOPIC, "/topics/chat/7", &[&copy]), 304).await;
    checker.expect(server, get(TOPIC, "/topics/chat/7?last=5", &[]), 200).await;
    // A new owner first counts.
    checker.eventually(server, || get(TOPIC, "/topics/chat/7?audience", &[]), 200).await;
    checker.expect(server, get(TOPIC, "/topics/chat/8", &[]), 404).await;
    checker.expect(server, get(TOPIC, "/topics/chat/7?last=no", &[]), 400).await;
    (first, last)
}

async fn read_pages(checker: &mut Checker, server: SocketAddr, first: &str, last: &str) {
    for (after, limit) in [("0:0", 1), (first, 1), (first, 100), (last, 100)] {
        let target = format!("/topics/chat/7?after={after}&limit={limit}");
        checker.expect(server, get(TOPIC, &target, &[]), 200).await;
    }
    let target = format!("/topics/chat/7?after={last}&live=long-poll&timeout=1");
    checker.expect(server, get(TOPIC, &target, &[]), 204).await;
    let mut oldest = String::new();
    for nth in 0..4 {
        let body = [b'0' + nth];
        let ack = checker.expect(server, post(TOPIC, "/topics/short/1", &[], &body), 200).await;
        if nth == 0 {
            oldest = ack.json()["position"].as_str().expect("a position").to_owned();
        }
    }
    let target = format!("/topics/short/1?after={oldest}");
    checker.expect(server, get(TOPIC, &target, &[]), 410).await;
}

async fn open_streams(checker: &mut Checker, server: SocketAddr) {
    checker.expect(server, get(TOPIC, "/topics/chat/7?from=start", &[EVENT_STREAM]), 200).await;
    checker.expect(server, get("/sse", "/sse?topic=chat/7&topic=chat/8", &[]), 200).await;
    checker.expect(server, get("/sse", "/sse", &[]), 400).await;
    let handshake =
        |extra: &'static [&str]| [&HANDSHAKE[..], &["connection: upgrade"], extra].concat();
    checker.expect(server, get("/ws", "/ws", &handshake(&[])), 101).await;
    let offered = handshake(&["sec-websocket-protocol: pushonce.v1.json"]);
    checker.expect(server, get("/ws", "/ws?topic=chat/7", &offered), 101).await;
    checker
        .expect(
            server,
            get("/ws", "/ws", &[HANDSHAKE[0], HANDSHAKE[1], "connection: upgrade"]),
            400,
        )
        .await;
    checker.expect(server, get("/ws", "/ws", &[]), 426).await;
}

async fn ask_the_node(checker: &mut Checker, server: SocketAddr) {
    for path in ["live", "ready", "publish", "viewers"] {
        let path = format!("/health/{path}");
        checker.expect(server, get(&path, &path, &[]), 200).await;
        checker.expect(server, get(&path, &path, &[FOREIGN]), 403).await;
    }
    checker.expect(server, get("/cluster", "/cluster?topic=chat/7", &[]), 200).await;
    checker.expect(server, get("/cluster", "/cluster?topics=chat/7", &[]), 400).await;
    checker.expect(server, get("/metrics", "/metrics", &[]), 200).await;
    checker.expect(server, get("/dev/certificate", "/dev/certificate", &[]), 200).await;
    checker.expect(server, post("/tickets", "/tickets", &[], b""), 200).await;
}

async fn refuse_foreign_pages(checker: &mut Checker, server: SocketAddr) {
    checker.expect(server, post(TOPIC, "/topics/chat/7", &[FOREIGN], b"x"), 403).await;
    checker.expect(server, get("/dev/certificate", "/dev/certificate", &[FOREIGN]), 403).await;
    let origin = format!("origin: http://{server}");
    let preflight =
        http_client::request(server, "OPTIONS", "/topics/chat/7", &[&origin], b"").await;
    assert_eq!(preflight.expect("a response").status, 204);
    let preflight =
        http_client::request(server, "OPTIONS", "/topics/chat/7", &[FOREIGN], b"").await;
    assert_eq!(preflight.expect("a response").status, 403);
    let deleted = http_client::request(server, "DELETE", "/topics/chat/7", &[], b"").await;
    assert_eq!(deleted.expect("a response").status, 405);
}

fn bearer(issuer: &TestIssuer, topics: &str, admin: Option<AdminAccess>) -> String {
    let allow = vec![topics.parse().expect("a valid pattern")];
    let patterns = PatternSet { allow, deny: Vec::new() };
    let grants = Grants { subscribe: patterns.clone(), publish: patterns, admin };
    format!("authorization: Bearer {}", issuer.token("alice", grants))
}

async fn refuse_without_grants(checker: &mut Checker, server: SocketAddr, issuer: &TestIssuer) {
    let other = bearer(issuer, "other/*", None);
    let reads = [
        (TOPIC, "/topics/chat/7", &[][..]),
        ("/sse", "/sse?topic=chat/7", &[]),
        ("/cluster", "/cluster", &[]),
        ("/metrics", "/metrics", &[]),
    ];
    for (path, target, headers) in reads {
        checker.expect(server, get(path, target, headers), 401).await;
        checker.expect(server, get(path, target, &[&other]), 403).await;
    }
    let upgrade = [&HANDSHAKE[..], &["connection: upgrade"]].concat();
    checker
        .expect(
            server,
            get("/ws", "/ws", &[&upgrade[..], &["authorization: Bearer x"]].concat()),
            401,
        )
        .await;
    checker.expect(server, get("/ws", "/ws", &[&upgrade[..], &[FOREIGN]].concat()), 403).await;
    checker.expect(server, post(TOPIC, "/topics/chat/7", &[], b"x"), 401).await;
    checker.expect(server, post(TOPIC, "/topics/chat/7", &[&other], b"x"), 403).await;

    let slow = bearer(issuer, "slow/*", None);
    wait_until("the caller is above its rate", secs(30), async || {
        let response = checker.call(server, post(TOPIC, "/topics/slow/1", &[&slow], b"x")).await;
        if response.status == 429 { Ok(()) } else { Err(format!("{response:?}")) }
    })
    .await;
    checker
        .expect(server, post("/tickets", "/tickets", &[&slow], b"{\"topics\":[\"slow/1\"]}"), 200)
        .await;
    checker.expect(server, post("/tickets", "/tickets", &[&slow], b"{\"topic\":1}"), 400).await;
    checker.expect(server, post("/tickets", "/tickets", &[], b""), 401).await;
    checker.expect(server, post("/tickets", "/tickets", &[&slow, FOREIGN], b""), 403).await;
    checker.expect(server, post("/tickets", "/tickets", &[&slow], &[b' '; 1 << 20]), 413).await;
}

/// The other node is gone.
async fn lose_the_majority(checker: &mut Checker, server: SocketAddr, issuer: &TestIssuer) {
    let token = bearer(issuer, "**", None);
    for path in ["ready", "publish", "viewers"] {
        let path = format!("/health/{path}");
        checker.eventually(server, || get(&path, &path, &[]), 503).await;
    }
    checker.eventually(server, || post(TOPIC, "/topics/chat/7", &[&token], b"x"), 503).await;
    checker.eventually(server, || get(TOPIC, "/topics/chat/7", &[&token]), 503).await;
}

impl Checker {
    fn new() -> Checker {
        let description = serde_saphyr::from_str(DESCRIPTION).expect("YAML");
        Checker { description, seen: BTreeSet::new() }
    }

    async fn expect(&mut self, server: SocketAddr, call: Call<'_>, status: u16) -> HttpResponse {
        let name = format!("{} {}", call.method, call.target);
        let response = self.call(server, call).await;
        assert_eq!(response.status, status, "{name}: {response:?}");
        response
    }

    async fn eventually<'c>(
        &mut self,
        server: SocketAddr,
        call: impl Fn() -> Call<'c>,
        status: u16,
    ) {
        wait_until(&format!("{} answers {status}", call().target), secs(60), async || {
            let response = self.call(server, call()).await;
            if response.status == status { Ok(()) } else { Err(format!("{response:?}")) }
        })
        .await;
    }

    /// Sends a request, and compares the response with the description.
    async fn call(&mut self, server: SocketAddr, call: Call<'_>) -> HttpResponse {
        let Call { method, path, target, headers, body } = call;
        let response = exchange(server, method, target, &headers, body).await;
        let method = method.to_lowercase();
        let name = format!("{method} {path} {}", response.status);
        let documented = self.description["paths"][path][&method]["responses"]
            .get(response.status.to_string())
            .unwrap_or_else(|| panic!("{name} is not documented: {response:?}"));
        let documented = self.resolve(documented).clone();
        self.check_headers(&name, &documented, &response);
        self.check_body(&name, &documented, &response);
        self.seen.insert(name);
        response
    }

    /// Follows a reference within the description.
    fn resolve<'d>(&'d self, value: &'d Value) -> &'d Value {
        let Some(reference) = value["$ref"].as_str() else { return value };
        let pointer = reference.strip_prefix('#').expect("within the file");
        self.description.pointer(pointer).unwrap_or_else(|| panic!("{reference} does not exist"))
    }

    fn check_headers(&self, name: &str, documented: &Value, response: &HttpResponse) {
        let empty = serde_json::Map::new();
        let headers = documented["headers"].as_object().unwrap_or(&empty);
        for (header, description) in headers {
            let description = self.resolve(description);
            match response.header(header) {
                Some(text) => self.check_header(&format!("{name}: {header}"), description, text),
                None => assert_ne!(
                    description["required"], true,
                    "{name} has no {header}: {response:?}"
                ),
            }
        }
        for line in response.header_text.lines().skip(1) {
            let header = line.split(':').next().unwrap_or_default().to_lowercase();
            let is_documented = headers.keys().any(|known| known.eq_ignore_ascii_case(&header));
            assert!(
                is_documented || COMMON_HEADERS.contains(&header.as_str()),
                "{name} has {line}, which is not documented"
            );
        }
    }

    fn check_header(&self, name: &str, description: &Value, text: &str) {
        let schema = &description["schema"];
        let value = match schema["type"] == "integer" {
            true => json!(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is {text:?}"))),
            false => json!(text),
        };
        self.validate(name, schema, &value);
    }

    fn check_body(&self, name: &str, documented: &Value, response: &HttpResponse) {
        let Some(contents) = documented["content"].as_object() else {
            assert!(response.body.is_empty(), "{name} has a body: {response:?}");
            return;
        };
        let content_type = response.header("content-type").unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default();
        let content = contents.get(media_type).or_else(|| contents.get("*/*"));
        let content = content.unwrap_or_else(|| panic!("{name} has the type {content_type:?}"));
        if response.body.starts_with("{\"error\"") && response.status != 410 {
            assert_eq!(response.header("cache-control"), Some("no-store"), "{name}: {response:?}");
        }
        if media_type == "application/json" && !response.body.is_empty() {
            self.validate(name, &content["schema"], &response.json());
        }
    }

    fn validate(&self, name: &str, schema: &Value, value: &Value) {
        let mut schema = schema.clone();
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("components".to_owned(), self.description["components"].clone());
        }
        let validator = jsonschema::draft202012::new(&schema).expect("a schema");
        if let Err(error) = validator.validate(value) {
            panic!("{name}: {error} in {value}");
        }
    }

    /// Every documented status was seen, or is listed with the reason why not.
    fn finish(&self) {
        let mut missing = Vec::new();
        for (path, operations) in self.description["paths"].as_object().expect("paths") {
            for (method, operation) in operations.as_object().expect("operations") {
                let Some(responses) = operation["responses"].as_object() else { continue };
                let names = responses.keys().map(|status| format!("{method} {path} {status}"));
                missing.extend(names.filter(|name| !self.seen.contains(name)));
            }
        }
        missing.retain(|name| !UNREACHED.iter().any(|(known, _)| known == name));
        assert!(missing.is_empty(), "documented, but never seen: {missing:#?}");
    }
}

/// Sends a request and reads the response: the whole, or the head of one that does not end.
async fn exchange(
    server: SocketAddr,
    method: &str,
    target: &str,
    headers: &[&str],
    body: &[u8],
) -> HttpResponse {
    let is_endless =
        headers.contains(&EVENT_STREAM) || target.starts_with("/sse") || target.starts_with("/ws");
    if !is_endless {
        let response = http_client::request(server, method, target, headers, body).await;
        return response.unwrap_or_else(|error| panic!("{method} {target}: {error}"));
    }
    let mut stream = TcpStream::connect(server).await.expect("a connection");
    let head =
        format!("{method} {target} HTTP/1.1\r\nhost: {server}\r\n{}\r\n\r\n", headers.join("\r\n"));
    let head = head.replace("\r\n\r\n\r\n", "\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut received = Vec::new();
    while !received.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = tokio::time::timeout(secs(20), stream.read_buf(&mut received)).await;
        let count = read.expect("a response").expect("no error");
        assert!(count > 0, "{target}: the connection ended: {received:?}");
    }
    let text = String::from_utf8_lossy(&received).into_owned();
    let (header_text, _) = text.split_once("\r\n\r\n").expect("a head");
    let status = header_text.split(' ').nth(1).and_then(|word| word.parse().ok());
    HttpResponse {
        status: status.expect("a status"),
        header_text: header_text.to_owned(),
        body: String::new(),
    }
}
