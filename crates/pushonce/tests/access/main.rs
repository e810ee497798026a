//! Every way into a node × every grant, against a node with issuers in this process.
//!
//! The paths come from the node's own lists: its HTTP routes, the descriptors of its gRPC services, and the
//! commands of the client protocol. A path without a row fails the test.

#![allow(unreachable_pub, reason = "the files of this test share it")]

mod node;
mod paths;
mod token;
mod validity;
mod webtransport;

use std::collections::BTreeSet;

use node::TestNode;
use paths::{Outcome, PATHS};
use pushonce_auth::{AdminAccess, Grants};
use token::{admin, grants, mint};

/// The callers of the table, in the order of its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// No token, and a topic in a namespace that needs one.
    NoToken,
    /// No token, and a topic in a namespace that everyone may read.
    PublicNamespace,
    /// A token that grants to subscribe to the topic.
    Subscribe,
    /// A token that grants to publish to the topic.
    Publish,
    /// A token for other topics.
    OtherTopic,
    /// A token for all topics that denies this one.
    Denied,
    /// A token of an operator who may look.
    AdminRead,
    /// A token of an operator who may change the cluster.
    AdminWrite,
    /// A token with all grants that has expired.
    Expired,
    /// A token with all grants that was revoked.
    Revoked,
    /// A token with all grants and a wrong signature.
    Forged,
}

impl Grant {
    const ALL: [Grant; 11] = [
        Grant::NoToken,
        Grant::PublicNamespace,
        Grant::Subscribe,
        Grant::Publish,
        Grant::OtherTopic,
        Grant::Denied,
        Grant::AdminRead,
        Grant::AdminWrite,
        Grant::Expired,
        Grant::Revoked,
        Grant::Forged,
    ];

    /// The topic of the request: in a namespace that needs a token, or in one that does not.
    pub fn topic(self) -> &'static str {
        if self == Grant::PublicNamespace { "public/1" } else { "chat/7" }
    }

    /// The token of the caller, if it has one.
    pub fn token(self) -> Option<String> {
        let all = || Grants { admin: Some(AdminAccess::Write), ..grants(&["**"], &["**"], &[]) };
        Some(match self {
            Grant::NoToken | Grant::PublicNamespace => return None,
            Grant::Subscribe => mint("alice", 3_600, grants(&["chat/*"], &[], &[])),
            Grant::Publish => mint("alice", 3_600, grants(&[], &["chat/**"], &[])),
            Grant::OtherTopic => mint("alice", 3_600, grants(&["news/**"], &["news/**"], &[])),
            Grant::Denied => mint("alice", 3_600, grants(&["**"], &["**"], &["chat/7"])),
            Grant::AdminRead => mint("operator", 3_600, admin(AdminAccess::Read)),
            Grant::AdminWrite => mint("operator", 3_600, admin(AdminAccess::Write)),
            Grant::Expired => mint("alice", -600, all()),
            Grant::Revoked => mint("revoked", 3_600, all()),
            Grant::Forged => {
                let mut token = mint("alice", 3_600, all());
                let last = if token.ends_with('A') { 'B' } else { 'A' };
                // The last character of a signature has unused bits: the one before decides.
                let kept = token.pop().expect("a signature");
                token.pop();
                token.push(last);
                token.push(kept);
                token
            }
        })
    }
}

/// Every path of the HTTP port is in the OpenAPI description, without those that belong to pages of the node.
fn every_interface_is_described(paths: &[String]) {
    let description = include_str!("../../../../proto/openapi.yaml");
    let is_of_page = |path: &str| {
        path == "/" || ["/sdk/", "/demo/", "/console"].iter().any(|pages| path.starts_with(pages))
    };
    for path in paths.iter().filter(|path| !is_of_page(path)) {
        let name = path.replace("{*", "{");
        assert!(description.contains(&format!("\n  {name}:\n")), "{path} is not described");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_admits_exactly_the_callers_with_its_grant() {
    let node = TestNode::start().await;
    let mut wrong = Vec::new();
    for path in PATHS {
        assert_eq!(path.expected.len(), Grant::ALL.len(), "{} has a column too few", path.name);
        for (grant, expected) in Grant::ALL.into_iter().zip(path.expected.chars()) {
            let outcome = (path.request)(&node, grant).await;
            if outcome != Outcome::from_letter(expected) {
                wrong.push(format!("{} with {grant:?}: {outcome:?}, not {expected}", path.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let rows: BTreeSet<_> = PATHS.iter().flat_map(|path| path.covers).copied().collect();
    let existing = node.http_paths().into_iter().chain(paths::rpcs()).chain(paths::commands());
    // Files of the program, which two rows ask for.
    let is_file = |path: &str| path.ends_with(".js") || path.ends_with(".css");
    let has_row = |path: &String| rows.contains(path.as_str()) || is_file(path);
    let missing: Vec<_> = existing.filter(|path| !has_row(path)).collect();
    assert!(missing.is_empty(), "paths without a row in the table: {missing:?}");

    every_interface_is_described(&node.http_paths());

    // In the same node: its start takes longer than these.
    validity::health_details_are_for_operators(&node).await;
    validity::sdk_publishes_with_a_token(&node).await;
    validity::revocation_ends_open_streams(&node).await;
    validity::removed_key_ends_open_streams(&node).await;
    validity::sdk_renews_the_token_of_a_session(&node).await;
    node.stop().await;
}
