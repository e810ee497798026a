//! Set-up: two nodes and the command line tool.
//! Fault: invalid arguments.
//! Claim: lines piped into `publish` are printed by `subscribe` at another node, over every transport, as
//! text or as JSON; topics and the cluster can be inspected, namespaces can be set; invalid arguments are
//! reported.

use pushonce_client::{Subscriber, SubscriberEvent, Transport};
use pushonce_cluster_tests::cli::{pushonce, pushonce_with_open_stdin};
use pushonce_cluster_tests::{ProcessCluster, secs, wait_until};
use pushonce_core::{StartFrom, SubscribeOptions};
use serde_json::{Value, json};

const TOPIC: &str = "chat/7";

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_as_documented() {
    let cluster = ProcessCluster::with_nodes(2).start().await;
    published_lines_are_printed_by_subscribers(&cluster).await;
    rejected_line_is_reported_before_the_next_is_read(&cluster).await;
    messages_are_printed_as_json(&cluster).await;
    deltas_are_printed_as_whole_messages(&cluster).await;
    latest_delivery_prints_only_the_newest_on_every_transport(&cluster).await;
    subscriber_waits_for_the_first_message(&cluster).await;
    topic_info_and_list_are_printed(&cluster).await;
    top_shows_nodes_and_topics(&cluster).await;
    cluster_status_and_explain_are_printed(&cluster).await;
    health_is_waited_for(&cluster).await;
    rates_are_printed_instead_of_messages(&cluster).await;
    namespace_settings_are_set_and_unset(&cluster).await;
    configuration_is_checked().await;
    invalid_arguments_are_reported(&cluster).await;
}

async fn published_lines_are_printed_by_subscribers(cluster: &ProcessCluster) {
    let grpc = grpc_server(cluster, 0);
    let first = pushonce(["publish", TOPIC, "first", "--server", &grpc], "").await.expect_success();
    let others =
        pushonce(["publish", TOPIC, "--server", &grpc], "second\nthird\n").await.expect_success();
    let positions: Vec<_> = first.lines().chain(others.lines()).map(str::to_owned).collect();
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
        assert_eq!(pushonce(args, "").await.expect_success(), expected, "{transport}");
    }
}

async fn rejected_line_is_reported_before_the_next_is_read(cluster: &ProcessCluster) {
    let server = ["--server", &grpc_server(cluster, 0)];
    let small = ["namespace", "set", "small", "--payload-max", "8"];
    pushonce([&small[..], &server].concat(), "").await.expect_success();
    let publish = [&["publish", "small/1"], &server[..]].concat();
    wait_until("the limit is in force", secs(10), async || {
        let output = pushonce(publish.clone(), "longer than that\n").await;
        if output.status.success() { Err(output.stdout) } else { Ok(()) }
    })
    .await;
    pushonce_with_open_stdin(publish, "short\nlonger than that\n")
        .await
        .expect_failure(&["line 2", "at most 8"]);
    let small = ["namespace", "unset", "small"];
    pushonce([&small[..], &server].concat(), "").await.expect_success();
}

async fn deltas_are_printed_as_whole_messages(cluster: &ProcessCluster) {
    let line = |n| format!("Germany against Brazil, Estadio Azteca, Mexico City: {n} to 0\n");
    let lines: String = (0..4).map(line).collect();
    pushonce(["publish", "long", "--server", &grpc_server(cluster, 0)], &lines)
        .await
        .expect_success();
    let ports = cluster.node(1).ports;
    for server in [format!("http://{}", ports.http), format!("quic://{}", ports.quic)] {
        let args = ["subscribe", "long", "--delta", "--from", "start", "--count", "4"];
        let out = pushonce([&args[..], &["--server", &server]].concat(), "").await.expect_success();
        let texts = out.lines().filter_map(|line| line.rsplit('\t').next());
        assert_eq!(texts.map(|text| format!("{text}\n")).collect::<String>(), lines, "{server}");
    }
    let grpc = ["subscribe", "long", "--delta", "--transport", "grpc"];
    pushonce(grpc, "").await.expect_failure(&["gRPC delivers whole messages"]);
}

async fn latest_delivery_prints_only_the_newest_on_every_transport(cluster: &ProcessCluster) {
    pushonce(["publish", "newest", "--server", &grpc_server(cluster, 0)], "one\ntwo\nthree\n")
        .await
        .expect_success();
    let newest = ["subscribe", "newest", "--from", "start", "--count", "1", "--delivery", "latest"];
    let quic = format!("quic://{}", cluster.node(1).ports.quic);
    let transports: [(String, &[&str]); 4] = [
        (ws_server(cluster, 1), &[]),
        (quic.clone(), &[]),
        (quic, &["--datagrams"]),
        (grpc_server(cluster, 1), &["--transport", "grpc"]),
    ];
    for (server, extra_flags) in transports {
        let output = pushonce([&newest[..], extra_flags, &["--server", &server]].concat(), "")
            .await
            .expect_success();
        assert!(output.ends_with("\tthree\n"), "{server}: {output}");
    }
}

async fn messages_are_printed_as_json(cluster: &ProcessCluster) {
    let (grpc, ws) = (grpc_server(cluster, 0), ws_server(cluster, 1));
    let score = r#"{"gb":21}"#;
    let acknowledgement = pushonce(["publish", "score", score, "--json", "--server", &grpc], "")
        .await
        .expect_success();
    let acknowledgement: Value = serde_json::from_str(&acknowledgement).expect("JSON");

    let from_start = ["subscribe", "score", "--json", "--from", "start", "--count", "1"];
    let frame = pushonce([&from_start[..], &["--server", &ws]].concat(), "").await.expect_success();

    let frame: Value = serde_json::from_str(&frame).expect("JSON");
    let message = json!({
        "topic": "score", "position": acknowledgement["position"], "time": acknowledgement["time"],
        "data": {"gb": 21},
    });
    assert_eq!(frame, json!({"message": message}));
}

async fn subscriber_waits_for_the_first_message(cluster: &ProcessCluster) {
    let (grpc, ws) = (grpc_server(cluster, 0), ws_server(cluster, 1));
    // From the start of a topic without a message: the subscriber waits for the first publish.
    let subscribe = ["subscribe", "later", "--from", "start", "--count", "2", "--server", &ws];
    let (subscribed, published) = tokio::join!(
        pushonce(subscribe, ""),
        pushonce(["publish", "later", "--server", &grpc], "one\ntwo\n"),
    );
    assert_eq!(published.expect_success().lines().count(), 2);
    let output = subscribed.expect_success();
    let texts: Vec<_> = output.lines().filter_map(|line| line.split('\t').nth(2)).collect();
    assert_eq!(texts, ["one", "two"]);
}

/// Not a terminal, so the frames follow each other without control sequences.
async fn top_shows_nodes_and_topics(cluster: &ProcessCluster) {
    let server = grpc_server(cluster, 1);
    let args = ["top", "--interval", "1s", "--count", "2", "--limit", "1", "--server", &server];
    let text = pushonce(args, "").await.expect_success();
    assert_eq!(text.matches("\ncluster ").count(), 2, "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let args = ["top", TOPIC, "--interval", "1s", "--count", "1", "--json", "--server", &server];
    let frame = pushonce(args, "").await.expect_success();
    let frame: Value = serde_json::from_str(&frame).expect("one object");
    assert_eq!(frame["nodes"].as_array().map(Vec::len), Some(2));
    assert_eq!(frame["topics"][0]["topic"], TOPIC);
}

async fn topic_info_and_list_are_printed(cluster: &ProcessCluster) {
    let server = grpc_server(cluster, 1);
    let text = pushonce(["topic", "info", TOPIC, "--server", &server], "").await.expect_success();
    for words in [TOPIC, "owner", "history   3 messages, 16 bytes", "audience"] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    let list =
        pushonce(["topic", "list", "--limit", "2", "--server", &server], "").await.expect_success();
    let names: Vec<_> = list.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(names, ["topic", TOPIC, "later"]);
    let unused = pushonce(["topic", "info", "never", "--json", "--server", &server], "")
        .await
        .expect_success();
    let unused: Value = serde_json::from_str(&unused).expect("JSON");
    assert_eq!((&unused["position"], &unused["history"]["count"]), (&json!("0:0"), &json!(0)));

    // A second subscriber at the same node receives the count no earlier.
    let options = SubscribeOptions { report_audience: true, ..SubscribeOptions::default() };
    let topic = TOPIC.parse().expect("a valid topic");
    let other_subscriber = Subscriber::builder([cluster.server_address(0, Transport::Ws)]);
    let mut other_subscriber = other_subscriber
        .topic_with_options(topic, StartFrom::Now, options)
        .connect()
        .expect("the servers fit the transport");
    let publish_when_counted = async {
        while !matches!(
            other_subscriber.next().await,
            Some(SubscriberEvent::Audience { count: 2, .. })
        ) {}
        pushonce(["publish", TOPIC, "fourth", "--server", &server], "").await.expect_success()
    };
    let ws = ws_server(cluster, 0);
    let args = ["subscribe", TOPIC, "--audience", "--from", "start", "--count", "4"];
    let subscription = pushonce([&args[..], &["--server", &ws]].concat(), "");
    let (output, _) = tokio::join!(subscription, publish_when_counted);
    let output = output.expect_success();
    assert!(output.lines().any(|line| line == format!("{TOPIC}\taudience\t2")), "{output}");
}

async fn cluster_status_and_explain_are_printed(cluster: &ProcessCluster) {
    let server = grpc_server(cluster, 1);
    // Two nodes hold two of the three configured replicas.
    let text = pushonce(["cluster", "status", "--server", &server], "").await.expect_exit_code(3);
    assert!(
        text.starts_with("DEGRADED: 16 shards (s0, s1, s2, …) have fewer than 3 live"),
        "{text}"
    );
    for words in ["node-0", "node-1", "control  leader n", "s15", "nothing is moving"] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }

    let status = ["cluster", "status", "--json", "--server", &server];
    let status = pushonce(status, "").await.expect_exit_code(3);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["node"], 2);
    assert_eq!(status["problems"][0]["kind"], "too_few_copies");
    assert_eq!(status["members"].as_array().map(Vec::len), Some(2));
    assert_eq!(status["shards"].as_array().map(Vec::len), Some(16));

    let explain = ["cluster", "explain", TOPIC, "--json", "--server", &server];
    let place: Value =
        serde_json::from_str(&pushonce(explain, "").await.expect_success()).expect("JSON");
    let shard = &status["shards"][place["shard"].as_u64().expect("a shard") as usize];
    assert_eq!(place["owner"], shard["owner"]);
}

async fn health_is_waited_for(cluster: &ProcessCluster) {
    let server = grpc_server(cluster, 0);
    // Two nodes: the loss of one ends the majority.
    let degraded = pushonce(["cluster", "health", "--json", "--server", &server], "").await;
    let health: Value = serde_json::from_str(&degraded.expect_exit_code(3)).expect("JSON");
    assert_eq!((&health["healthy"], &health["active_members"]), (&json!(false), &json!(2)));
    let wait = ["cluster", "health", "--wait", "1s", "--nodes", "3", "--server", &server];
    pushonce(wait, "").await.expect_exit_code(3);
}

async fn rates_are_printed_instead_of_messages(cluster: &ProcessCluster) {
    let (server, grpc) = (ws_server(cluster, 0), grpc_server(cluster, 0));
    pushonce(["publish", "stats/1", "one", "--server", &grpc], "").await.expect_success();
    let subscribe =
        ["subscribe", "stats/1", "--from", "start", "--count", "1", "--stats", "--json"];
    let lines = pushonce([&subscribe[..], &["--server", &server]].concat(), "").await;
    let lines = lines.expect_success();
    let last = lines.lines().last().expect("a line");
    let line: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(
        (&line["messages"], &line["bytes"], &line["gaps"]),
        (&json!(1), &json!(3), &json!(0))
    );
}

async fn namespace_settings_are_set_and_unset(cluster: &ProcessCluster) {
    let (server_0, server_1) = (grpc_server(cluster, 0), grpc_server(cluster, 1));
    let set = ["namespace", "set", "short", "--history-count", "2", "--server", &server_0];
    let text = pushonce(set, "").await.expect_success();
    assert!(text.contains("short") && text.contains("replicated"), "{text}");
    let set = ["namespace", "set", "short", "--history-age=2h", "--json", "--server", &server_1];
    let settings: Value =
        serde_json::from_str(&pushonce(set, "").await.expect_success()).expect("JSON");
    assert_eq!(settings["history"]["count"], 2, "settings that are not given stay");
    assert_eq!(settings["history"]["age_ms"], 2 * 3_600_000);

    let publish = ["publish", "short/a", "--server", &server_0];
    assert_eq!(pushonce(publish, "one\ntwo\nthree\n").await.expect_success().lines().count(), 3);
    let ws = ws_server(cluster, 1);
    let subscribe = ["subscribe", "short/a", "--from", "start", "--count", "1", "--server", &ws];
    let first = pushonce(subscribe, "").await.expect_success();
    assert!(first.contains("two"), "the history has the last two messages: {first}");

    let too_large =
        ["namespace", "set", "--default", "--payload-max", "2000000", "--server", &server_0];
    pushonce(too_large, "").await.expect_failure(&["1 to 1048576"]);
    pushonce(["namespace", "unset", "short", "--server", &server_1], "").await.expect_success();
    let list = ["namespace", "list", "--json", "--server", &server_1];
    wait_until("the namespace has no settings of its own", secs(10), async || {
        let output = pushonce(list, "").await.expect_success();
        let list: Value = serde_json::from_str(&output).expect("JSON");
        if list.as_array().map(Vec::len) == Some(1) { Ok(()) } else { Err(output) }
    })
    .await;
}

async fn configuration_is_checked() {
    let args = ["check-config", "--name", "a", "--region", "eu", "--json"];
    let config: Value =
        serde_json::from_str(&pushonce(args, "").await.expect_success()).expect("JSON");
    assert_eq!((&config["name"], &config["region"]), (&json!("a"), &json!("eu")));
    let text = pushonce(["check-config", "--name", "a"], "").await.expect_success();
    assert!(text.contains("name = \"a\"") && text.contains("replicas = 3"), "{text}");
}

async fn invalid_arguments_are_reported(cluster: &ProcessCluster) {
    let (grpc, ws) = (grpc_server(cluster, 0), ws_server(cluster, 0));
    pushonce(["publish", "$sys/x", "x", "--server", &grpc], "").await.expect_failure(&["'$'"]);
    let future = ["subscribe", TOPIC, "--from", "99999:1", "--server", &ws];
    pushonce(future, "").await.expect_failure(&["future_position", "99999:1", "start from"]);
    let unused_server = format!("http://{}", cluster.ports(9).grpc);
    pushonce(["cluster", "status", "--server", &unused_server], "")
        .await
        .expect_failure(&[&unused_server]);
    pushonce(["publish", TOPIC, "--server", &unused_server], "x\n")
        .await
        .expect_failure(&["no server"]);
    for (args, word) in [
        (["publish", "a//b", "x"], "empty"),
        (["subscribe", "a", "--from=yesterday"], "last:N"),
        (["subscribe", "a", "--server=127.0.0.1:1"], "https://HOST:PORT"),
    ] {
        let output = pushonce(args, "").await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stderr.contains(word), "{word:?} is not in: {}", output.stderr);
    }
}

fn grpc_server(cluster: &ProcessCluster, i: usize) -> String {
    format!("http://{}", cluster.node(i).ports.grpc)
}

fn ws_server(cluster: &ProcessCluster, i: usize) -> String {
    format!("http://{}", cluster.node(i).ports.http)
}

#[tokio::test(flavor = "multi_thread")]
async fn unresponsive_server_is_skipped() {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    // Connections stay in its backlog, as with a stopped process.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bind a free port");
    let silent = format!("http://{}", silent.local_addr().expect("a local address"));
    let servers = format!("{silent},http://{}", cluster.ports(0).grpc);
    let unresponsive_only = pushonce(["topic", "list", "--server", &silent], "").await;
    unresponsive_only.expect_failure(&[&silent, "does not answer", "--grpc"]);
    pushonce(["topic", "list", "--server", &servers], "").await.expect_success();
}
