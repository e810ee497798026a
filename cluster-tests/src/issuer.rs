//! An issuer of tokens, and a cluster that accepts only these.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use pushonce_auth::{Grants, NewToken, SigningKey};
use pushonce_core::Timestamp;

use crate::cluster::ProcessCluster;
use crate::http_client;
use crate::wait::{secs, wait_until};
use crate::websocket::WebSocketClient;

/// Signs tokens with a secret that the nodes of a cluster know.
pub struct TestIssuer {
    file: PathBuf,
    secret_file: PathBuf,
    secret: String,
}

impl TestIssuer {
    /// Writes an issuers file to the directory of a cluster.
    pub fn write(directory: &Path) -> TestIssuer {
        let (file, secret_file) = (directory.join("issuers.toml"), directory.join("secret"));
        let text = format!(
            "[[issuer]]\nissuer = \"test\"\naudience = \"pushonce\"\n[[issuer.key]]\n\
             algorithm = \"HS256\"\nsecret-file = {secret_file:?}\n"
        );
        std::fs::write(&file, text).expect("writable");
        let mut issuer = TestIssuer { file, secret_file, secret: String::new() };
        issuer.replace_key("first");
        issuer
    }

    /// Replaces the key. The nodes read it after SIGHUP, or within half a minute.
    pub fn replace_key(&mut self, name: &str) {
        self.secret = format!("the {name} secret of the test, thirty-two bytes or more");
        std::fs::write(&self.secret_file, &self.secret).expect("writable");
    }

    /// Restarts all nodes of a cluster, so that they accept only tokens of this issuer, and waits until they are ready.
    /// The support of the tests asks for the state of the cluster without a token, until it has settled.
    pub async fn restart_nodes(&self, cluster: &mut ProcessCluster) {
        let nodes: Vec<_> = cluster.running_nodes().collect();
        nodes.iter().for_each(|&node| cluster.kill(node));
        let file = self.file.to_str().expect("UTF-8").to_owned();
        for &node in &nodes {
            cluster.restart_with(node, &["--issuers", &file]);
        }
        for &node in &nodes {
            let server = cluster.ports(node).http;
            let is_ready = async || match http_client::get(server, "/health/ready", &[]).await {
                Ok(response) if response.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            };
            wait_until("the node is ready", secs(30), is_ready).await;
        }
    }

    /// A token that is valid for an hour.
    pub fn token(&self, subject: &str, grants: Grants) -> String {
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
        let key = SigningKey::from_secret(self.secret.as_bytes()).expect("long");
        token.sign(&key, None).expect("signed")
    }
}

/// Opens a session with a token.
pub async fn open_session(server: SocketAddr, token: &str) -> WebSocketClient {
    let mut session = WebSocketClient::open(server, "").await;
    let frame = format!(r#"{{"id":1,"authenticate":{{"token":"{token}"}}}}"#);
    let answer = session.request(&frame).await;
    assert!(answer["authenticated"].is_object(), "{answer}");
    session
}
