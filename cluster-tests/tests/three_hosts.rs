//! Set-up: the commands of `THREE_HOSTS.md`, as they stand there, on three hosts.
//! Fault: callers without a token, without the authority, and without TLS.
//! Claim: the commands make a cluster of three nodes with TLS, tokens and a private authority, which delivers a
//! message to a viewer with a token and rejects everyone else; ten commands are enough.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use pushonce_cluster_tests::hosts::{HostCommand, Hosts, RunningCommand};
use pushonce_cluster_tests::{secs, wait_until};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PAGE: &str = include_str!("../../crates/pushonce/THREE_HOSTS.md");

/// The start of a connection in plain text: of HTTP/1.1, and of HTTP/2 as gRPC uses it.
const PLAIN_TEXTS: [&[u8]; 2] = [
    b"GET /topics/chat/7 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
];

async fn wait_output(command: &mut RunningCommand, text: &str) {
    wait_until(&format!("{text:?} is in the output"), secs(60), async || {
        let output = command.output_while_running();
        if output.contains(text) { Ok(()) } else { Err(output) }
    })
    .await;
}

fn find<'a>(commands: &'a [HostCommand], text: &str) -> &'a HostCommand {
    let found: Vec<_> = commands.iter().filter(|command| command.line.contains(text)).collect();
    assert!(!found.is_empty(), "no command has {text:?}");
    found[0]
}

/// The command without the assignment of a token before it.
fn without_token(command: &HostCommand) -> HostCommand {
    let (_, line) = command.line.split_once(") ").expect("PUSHONCE_TOKEN=$(…) COMMAND");
    HostCommand { line: line.to_owned(), ..command.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_commands_make_a_secure_cluster_on_three_hosts() {
    let blocks = HostCommand::parse_page(PAGE);
    let [commands, afterwards] = blocks.as_slice() else { panic!("{} blocks", blocks.len()) };
    assert_eq!(commands.len(), 10);
    let names: BTreeSet<_> = commands.iter().map(|command| command.host.as_str()).collect();
    assert_eq!(names.len(), 3);
    let hosts = Hosts::new(names.iter().copied());

    let (mut nodes, mut viewer) = (Vec::new(), None);
    for command in commands {
        if command.line.contains("pushonce serve") {
            let mut node = hosts.start(command, "serve.log");
            // The operator sees it in the terminal before typing the next command.
            wait_output(&mut node, " ready ").await;
            nodes.push(node);
        } else if command.line.contains("pushonce subscribe") {
            viewer = Some(hosts.start(command, "subscribe.log"));
        } else {
            hosts.run(command).await.expect_success();
        }
    }
    assert_eq!(nodes.len(), 3);
    wait_output(&mut viewer.expect("a command subscribes"), "{\"text\":\"goal!\"}").await;

    let status = find(afterwards, "cluster status");
    wait_until("the cluster has no problem", secs(60), async || {
        let output = hosts.run(status).await;
        if output.status.success() { Ok(()) } else { Err(output.stdout + &output.stderr) }
    })
    .await;
    members_are_named_by_their_certificates(&hosts, &names, status).await;
    callers_without_token_or_authority_are_rejected(&hosts, commands, status).await;
    plain_text_is_rejected(&hosts, &names).await;
    load_generators_measure_the_cluster(&hosts, status).await;
    join_token_of_the_environment_is_accepted_and_never_printed(&hosts, status).await;
    settings_are_accepted_on_addresses_that_others_reach(&hosts, commands).await;
    for mut node in nodes {
        node.output_while_running();
    }
}

async fn members_are_named_by_their_certificates(
    hosts: &Hosts,
    names: &BTreeSet<&str>,
    status: &HostCommand,
) {
    let json = hosts.run(&status.with("cluster status", "--json cluster status")).await;
    let json: Value = serde_json::from_str(&json.expect_success()).expect("JSON");
    let members = json["members"].as_array().expect("a list");
    assert_eq!(members.len(), 3);
    for ((member, name), id) in members.iter().zip(names).zip(1..) {
        let address = hosts.address(name);
        assert_eq!((&member["id"], &member["state"]), (&id.into(), &"active".into()), "{json}");
        assert_eq!(member["https"], format!("{address}:7443"));
        let show = format!("pushonce --json ca show ca/{name}/node.crt");
        let show = HostCommand { line: show, ..status.clone() };
        let shown = hosts.run(&show).await.expect_success();
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!((&shown["node"], &shown["cluster"]), (&id.into(), &json["cluster"]));
        assert_eq!(shown["hosts"][0], address.to_string());
        // The node serves the certificate with its name: the client checks it.
        let server = status.with("a.example:7090", &format!("{name}:7090"));
        hosts.run(&server).await.expect_success();
    }
}

async fn callers_without_token_or_authority_are_rejected(
    hosts: &Hosts,
    commands: &[HostCommand],
    status: &HostCommand,
) {
    let (publish, subscribe) = (find(commands, " publish "), find(commands, " subscribe "));
    for command in [publish, subscribe] {
        let rejected = hosts.run(&without_token(command)).await;
        rejected.expect_failure(&["not_authenticated"]);
    }
    hosts.run(&without_token(status)).await.expect_failure(&["needs a token"]);
    let foreign = hosts.run(&publish.with("chat/7", "news/7")).await;
    foreign.expect_failure(&["not_allowed"]);
    // At once, with the option to set.
    for command in [publish, subscribe, status] {
        let untrusted = hosts.run(&command.with(" --ca ca/ca.crt", "")).await;
        untrusted.expect_failure(&["the certificate of", "is not accepted", "--ca FILE"]);
    }
    let quic = subscribe.with("https://", "quic://").with("ca/ca.crt", "ca/a.example/node.crt");
    hosts.run(&quic).await.expect_failure(&["the certificate of", "is not accepted"]);
}

/// Every port that others reach answers plain text with nothing but an alert of TLS.
async fn plain_text_is_rejected(hosts: &Hosts, names: &BTreeSet<&str>) {
    for (name, port) in names.iter().flat_map(|name| [7443, 7090, 7091].map(|port| (name, port))) {
        let address = SocketAddr::from((hosts.address(name), port));
        for text in PLAIN_TEXTS {
            let mut stream = TcpStream::connect(address).await.expect("the port is open");
            stream.write_all(text).await.expect("sent");
            let mut reply = Vec::new();
            let end = tokio::time::timeout(secs(60), stream.read_to_end(&mut reply)).await;
            // A reset is an end, too.
            let _ = end.unwrap_or_else(|_| panic!("{address} keeps a connection in plain text"));
            let is_alert = reply.is_empty() || reply[0] == 0x15 && reply.len() == 7;
            assert!(is_alert, "{address} replied {reply:?}");
        }
    }
}

async fn load_generators_measure_the_cluster(hosts: &Hosts, status: &HostCommand) {
    let token = "PUSHONCE_TOKEN=$(pushonce token mint --key backend.pem --subject bench \
                 --subscribe 'bench/**' --publish 'bench/**')";
    let run = async |bench: &str| {
        let line = format!("{token} pushonce --json bench {bench} --duration 1s --ca ca/ca.crt");
        let output = hosts.run(&HostCommand { line, ..status.clone() }).await.expect_success();
        serde_json::from_str::<Value>(&output).expect("JSON")
    };
    for mode in ["", "--unary"] {
        let report = run(&format!("publish --server https://b.example:7090 {mode}")).await;
        assert!(report["acknowledged"].as_u64() > Some(0), "{report}");
    }
    for (transport, servers) in [
        ("ws", "https://a.example:7443,wss://c.example:7443"),
        ("quic", "quic://a.example:7443,quic://c.example:7443"),
    ] {
        let line = format!(
            "fanout --subscribers 6 --transport {transport} --server {servers} \
             --publish-to https://b.example:7090"
        );
        let report = run(&line).await;
        assert_eq!((&report["subscribers"], &report["ended"]), (&6.into(), &0.into()), "{report}");
        assert!(report["deliveries"].as_u64() > Some(0), "{report}");
    }
    // Without the authority, or without a token.
    for line in [
        format!("{token} pushonce bench publish --server https://b.example:7090"),
        "pushonce bench fanout --server https://c.example:7443 --publish-to https://b.example:7090"
            .to_owned(),
    ] {
        let output = hosts.run(&HostCommand { line, ..status.clone() }).await;
        output.expect_failure(&["the certificate of", "--ca FILE"]);
    }
}

async fn join_token_of_the_environment_is_accepted_and_never_printed(
    hosts: &Hosts,
    status: &HostCommand,
) {
    let make = status.with("--admin read", "--admin write").with("cluster status", "cluster token");
    let token = hosts.run(&make).await.expect_success();
    let token = token.trim();
    let check = async |token: &str| {
        let settings = "pushonce check-config --peer 0.0.0.0:7091 --advertise d.example";
        let line = format!("PUSHONCE_JOIN_TOKEN={token} {settings}");
        hosts.run_unbound(&HostCommand { line, ..status.clone() }).await
    };
    let accepted = check(token).await;
    assert!(accepted.stderr.is_empty(), "{}", accepted.stderr);
    assert!(!accepted.expect_success().contains("pushonce-join"));
    let cut = &token[..token.len() - 4];
    let rejected = check(cut).await;
    assert!(!rejected.stderr.contains(cut), "{}", rejected.stderr);
    rejected.expect_failure(&["PUSHONCE_JOIN_TOKEN: the join token is incomplete"]);
    check("").await.expect_failure(&["can be reached by other hosts"]);
}

/// On loopback addresses a node asks for less. With 0.0.0.0 as it stands, its settings must be complete.
async fn settings_are_accepted_on_addresses_that_others_reach(
    hosts: &Hosts,
    commands: &[HostCommand],
) {
    for command in commands.iter().filter(|command| command.line.contains("pushonce serve")) {
        let check = command.with("pushonce serve", "pushonce check-config");
        hosts.run_unbound(&check).await.expect_success();
        let incomplete = check.with(" --issuers issuers.toml", "");
        hosts.run_unbound(&incomplete).await.expect_failure(&["can be reached by other hosts"]);
    }
}
