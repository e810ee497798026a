//! Set-up: two nodes, and somebody at a terminal.
//! Fault: typing errors.
//! Claim: lines that are piped in come out of a pipe on another node, by every transport, as text
//! or as JSON; topics and the cluster can be looked at, and its namespaces set; what is typed wrong is told.

use pushonce_client::{Event, Subscriber, Transport};
use pushonce_cluster_tests::tool::{pushonce, pushonce_piped};
use pushonce_cluster_tests::{Cluster, secs, until};
use pushonce_core::{From, Options};
use serde_json::{Value, json};

const TOPIC: &str = "chat/7";

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_do_what_they_say() {
    let cluster = Cluster::of(2).start().await;
    a_line_in_is_a_line_out(&cluster).await;
    a_refused_line_is_told_before_the_next_comes(&cluster).await;
    messages_come_as_json(&cluster).await;
    deltas_come_out_whole(&cluster).await;
    the_newest_comes_alone_by_every_way(&cluster).await;
    a_subscriber_waits_for_what_comes(&cluster).await;
    topics_can_be_looked_at(&cluster).await;
    the_cluster_can_be_looked_at(&cluster).await;
    namespaces_are_set_and_unset(&cluster).await;
    a_configuration_can_be_checked().await;
    what_is_typed_wrong_is_told(&cluster).await;
}

async fn a_line_in_is_a_line_out(cluster: &Cluster) {
    let grpc = grpc(cluster, 0);
    let one = pushonce(["publish", TOPIC, "first", "--server", &grpc], "").await.ok();
    let rest = pushonce(["publish", TOPIC, "--server", &grpc], "second\nthird\n").await.ok();
    let positions: Vec<_> = one.lines().chain(rest.lines()).map(str::to_owned).collect();
    assert_eq!(positions.len(), 3, "{positions:?}");

    let texts = ["first", "second", "third"];
    let lines = positions.iter().zip(texts).map(|(at, text)| format!("{TOPIC}\t{at}\t{text}\n"));
    let expected: String = lines.collect();
    let ports = cluster.node(1).ports;
    for (transport, server) in [
        ("ws", format!("http://{}", ports.http)),
        ("quic", format!("quic://{}", ports.quic)),
        ("grpc", format!("http://{}", ports.grpc)),
    ] {
        let args = ["subscribe", TOPIC, "--transport", transport, "--server", &server];
        let args = [&args[..], &["--from", "start", "--count", "3"]].concat();
        assert_eq!(pushonce(args, "").await.ok(), expected, "{transport}");
    }
}

async fn a_refused_line_is_told_before_the_next_comes(cluster: &Cluster) {
    let server = ["--server", &grpc(cluster, 0)];
    let small = ["namespace", "set", "small", "--payload-max", "8"];
    pushonce([&small[..], &server].concat(), "").await.ok();
    let publish = [&["publish", "small/1"], &server[..]].concat();
    until("the bound is in force", secs(10), async || {
        let done = pushonce(publish.clone(), "longer than that\n").await;
        if done.status.success() { Err(done.out) } else { Ok(()) }
    })
    .await;
    pushonce_piped(publish, "short\nlonger than that\n").await.failed(&["line 2", "at most 8"]);
    let small = ["namespace", "unset", "small"];
    pushonce([&small[..], &server].concat(), "").await.ok();
}

async fn deltas_come_out_whole(cluster: &Cluster) {
    let line = |n| format!("Germany against Brazil, Estadio Azteca, Mexico City: {n} to 0\n");
    let lines: String = (0..4).map(line).collect();
    pushonce(["publish", "long", "--server", &grpc(cluster, 0)], &lines).await.ok();
    let ports = cluster.node(1).ports;
    for server in [format!("http://{}", ports.http), format!("quic://{}", ports.quic)] {
        let args = ["subscribe", "long", "--delta", "--from", "start", "--count", "4"];
        let out = pushonce([&args[..], &["--server", &server]].concat(), "").await.ok();
        let texts = out.lines().filter_map(|line| line.rsplit('\t').next());
        assert_eq!(texts.map(|text| format!("{text}\n")).collect::<String>(), lines, "{server}");
    }
    let grpc = ["subscribe", "long", "--delta", "--transport", "grpc"];
    pushonce(grpc, "").await.failed(&["gRPC brings messages, whole"]);
}

async fn the_newest_comes_alone_by_every_way(cluster: &Cluster) {
    pushonce(["publish", "newest", "--server", &grpc(cluster, 0)], "one\ntwo\nthree\n").await.ok();
    let newest = ["subscribe", "newest", "--from", "start", "--count", "1", "--delivery", "latest"];
    let quic = format!("quic://{}", cluster.node(1).ports.quic);
    let ways: [(String, &[&str]); 4] = [
        (ws(cluster, 1), &[]),
        (quic.clone(), &[]),
        (quic, &["--datagrams"]),
        (grpc(cluster, 1), &["--transport", "grpc"]),
    ];
    for (server, more) in ways {
        let seen = pushonce([&newest[..], more, &["--server", &server]].concat(), "").await.ok();
        assert!(seen.ends_with("\tthree\n"), "{server}: {seen}");
    }
}

async fn messages_come_as_json(cluster: &Cluster) {
    let (grpc, ws) = (grpc(cluster, 0), ws(cluster, 1));
    let score = r#"{"gb":21}"#;
    let placed = pushonce(["publish", "score", score, "--json", "--server", &grpc], "").await.ok();
    let placed: Value = serde_json::from_str(&placed).expect("JSON");

    let from_start = ["subscribe", "score", "--json", "--from", "start", "--count", "1"];
    let frame = pushonce([&from_start[..], &["--server", &ws]].concat(), "").await.ok();

    let frame: Value = serde_json::from_str(&frame).expect("JSON");
    let message = json!({
        "topic": "score", "position": placed["position"], "time": placed["time"],
        "data": {"gb": 21},
    });
    assert_eq!(frame, json!({"message": message}));
}

async fn a_subscriber_waits_for_what_comes(cluster: &Cluster) {
    let (grpc, ws) = (grpc(cluster, 0), ws(cluster, 1));
    // From the start of a topic without a message: whoever is first, the other waits for it.
    let subscribe = ["subscribe", "later", "--from", "start", "--count", "2", "--server", &ws];
    let (seen, placed) = tokio::join!(
        pushonce(subscribe, ""),
        pushonce(["publish", "later", "--server", &grpc], "one\ntwo\n"),
    );
    assert_eq!(placed.ok().lines().count(), 2);
    let seen = seen.ok();
    let texts: Vec<_> = seen.lines().filter_map(|line| line.split('\t').nth(2)).collect();
    assert_eq!(texts, ["one", "two"]);
}

async fn topics_can_be_looked_at(cluster: &Cluster) {
    let server = grpc(cluster, 1);
    let text = pushonce(["topic", "info", TOPIC, "--server", &server], "").await.ok();
    for words in [TOPIC, "owner", "history   3 messages, 16 bytes", "audience"] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    let list = pushonce(["topic", "list", "--limit", "2", "--server", &server], "").await.ok();
    let names: Vec<_> = list.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(names, ["topic", TOPIC, "later"]);
    let never = pushonce(["topic", "info", "never", "--json", "--server", &server], "").await.ok();
    let never: Value = serde_json::from_str(&never).expect("JSON");
    assert_eq!((&never["position"], &never["history"]["count"]), (&json!("0:0"), &json!(0)));

    // Another that asks at the same node is told no sooner.
    let options = Options { audience: true, ..Options::default() };
    let topic = TOPIC.parse().expect("valid");
    let beside = Subscriber::builder([cluster.server(0, Transport::Ws)]);
    let mut beside = beside
        .topic_with(topic, From::Now, options)
        .connect()
        .expect("the servers fit the transport");
    let told = async {
        while !matches!(beside.next().await, Some(Event::Audience { count: 2, .. })) {}
        pushonce(["publish", TOPIC, "fourth", "--server", &server], "").await.ok()
    };
    let ws = ws(cluster, 0);
    let asks = ["subscribe", TOPIC, "--audience", "--from", "start", "--count", "4"];
    let asks = pushonce([&asks[..], &["--server", &ws]].concat(), "");
    let (seen, _) = tokio::join!(asks, told);
    let seen = seen.ok();
    assert!(seen.lines().any(|line| line == format!("{TOPIC}\taudience\t2")), "{seen}");
}

async fn the_cluster_can_be_looked_at(cluster: &Cluster) {
    let server = grpc(cluster, 1);
    // Two nodes hold two of the three copies that are configured.
    let text = pushonce(["cluster", "status", "--server", &server], "").await.exited(3);
    assert!(
        text.starts_with("DEGRADED: 16 shards (s0, s1, s2, …) have fewer than 3 living"),
        "{text}"
    );
    for words in ["node-0", "node-1", "control  leader n", "s15", "nothing is moving"] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }

    let status = ["cluster", "status", "--json", "--server", &server];
    let status = pushonce(status, "").await.exited(3);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["node"], 2);
    assert_eq!(status["problems"][0]["kind"], "too_few_copies");
    assert_eq!(status["members"].as_array().map(Vec::len), Some(2));
    assert_eq!(status["shards"].as_array().map(Vec::len), Some(16));

    let explain = ["cluster", "explain", TOPIC, "--json", "--server", &server];
    let place: Value = serde_json::from_str(&pushonce(explain, "").await.ok()).expect("JSON");
    let shard = &status["shards"][place["shard"].as_u64().expect("a shard") as usize];
    assert_eq!(place["owner"], shard["owner"]);
}

async fn namespaces_are_set_and_unset(cluster: &Cluster) {
    let (here, there) = (grpc(cluster, 0), grpc(cluster, 1));
    let set = ["namespace", "set", "short", "--history-count", "2", "--server", &here];
    let text = pushonce(set, "").await.ok();
    assert!(text.contains("short") && text.contains("replicated"), "{text}");
    let set = ["namespace", "set", "short", "--history-age=2h", "--json", "--server", &there];
    let settings: Value = serde_json::from_str(&pushonce(set, "").await.ok()).expect("JSON");
    assert_eq!(settings["history"]["count"], 2, "what was not said stays");
    assert_eq!(settings["history"]["age_ms"], 2 * 3_600_000);

    let publish = ["publish", "short/a", "--server", &here];
    assert_eq!(pushonce(publish, "one\ntwo\nthree\n").await.ok().lines().count(), 3);
    let ws = ws(cluster, 1);
    let subscribe = ["subscribe", "short/a", "--from", "start", "--count", "1", "--server", &ws];
    let first = pushonce(subscribe, "").await.ok();
    assert!(first.contains("two"), "the history has the last two: {first}");

    let over = ["namespace", "set", "--default", "--payload-max", "2000000", "--server", &here];
    pushonce(over, "").await.failed(&["1 to 1048576"]);
    pushonce(["namespace", "unset", "short", "--server", &there], "").await.ok();
    let list = ["namespace", "list", "--json", "--server", &there];
    until("the namespace has no settings of its own", secs(10), async || {
        let said = pushonce(list, "").await.ok();
        let list: Value = serde_json::from_str(&said).expect("JSON");
        if list.as_array().map(Vec::len) == Some(1) { Ok(()) } else { Err(said) }
    })
    .await;
}

async fn a_configuration_can_be_checked() {
    let args = ["check-config", "--name", "a", "--region", "eu", "--json"];
    let config: Value = serde_json::from_str(&pushonce(args, "").await.ok()).expect("JSON");
    assert_eq!((&config["name"], &config["region"]), (&json!("a"), &json!("eu")));
    let text = pushonce(["check-config", "--name", "a"], "").await.ok();
    assert!(text.contains("name = \"a\"") && text.contains("replicas = 3"), "{text}");
}

async fn what_is_typed_wrong_is_told(cluster: &Cluster) {
    let (grpc, ws) = (grpc(cluster, 0), ws(cluster, 0));
    pushonce(["publish", "$sys/x", "x", "--server", &grpc], "").await.failed(&["'$'"]);
    let future = ["subscribe", TOPIC, "--from", "99999:1", "--server", &ws];
    pushonce(future, "").await.failed(&["future_position", "99999:1", "begin from"]);
    let nobody = format!("http://{}", cluster.ports(9).grpc);
    pushonce(["cluster", "status", "--server", &nobody], "").await.failed(&[&nobody]);
    pushonce(["publish", TOPIC, "--server", &nobody], "x\n").await.failed(&["no server"]);
    for (args, word) in [
        (["publish", "a//b", "x"], "empty"),
        (["subscribe", "a", "--from=yesterday"], "last:N"),
        (["subscribe", "a", "--server=127.0.0.1:1"], "http://HOST:PORT"),
    ] {
        let done = pushonce(args, "").await;
        assert_eq!(done.status.code(), Some(2), "{done:?}");
        assert!(done.err.contains(word), "{word:?} is not in: {}", done.err);
    }
}

fn grpc(cluster: &Cluster, i: usize) -> String {
    format!("http://{}", cluster.node(i).ports.grpc)
}

fn ws(cluster: &Cluster, i: usize) -> String {
    format!("http://{}", cluster.node(i).ports.http)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_accepts_and_is_silent_is_passed_over() {
    let cluster = Cluster::of(1).start().await;
    // Connections wait in its backlog, as with a process that is stopped.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent = format!("http://{}", silent.local_addr().expect("bound"));
    let servers = format!("{silent},http://{}", cluster.ports(0).grpc);
    let alone = pushonce(["topic", "list", "--server", &silent], "").await;
    alone.failed(&[&silent, "does not answer", "--grpc"]);
    pushonce(["topic", "list", "--server", &servers], "").await.ok();
}
