//! Set-up: the command line tool, without a node.
//! Fault: keys that exist, lack or have changed; tokens of another key, expired, or beyond the limits.
//! Claim: a made token is accepted by a made issuers file, shows what it allows, and each mistake is refused
//! with its reason; a private key is readable only by its owner and is never overwritten.

use std::fs;
use std::path::{Path, PathBuf};

use pushonce_cluster_tests::cli::pushonce;
use serde_json::Value;
use tempfile::TempDir;

/// A directory with a key and an issuers file that names it.
struct Files {
    directory: TempDir,
}

impl Files {
    async fn with_key(algorithm: &str) -> Files {
        let files = Files { directory: tempfile::tempdir().expect("a directory") };
        let key = files.path("key");
        let printed = pushonce(["token", "key", &text(&key), "--algorithm", algorithm], "").await;
        fs::write(files.path("issuers.toml"), printed.expect_success()).expect("writable");
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn issuers(&self) -> String {
        text(&self.path("issuers.toml"))
    }

    /// A token with these flags.
    async fn mint(&self, key_flag: &str, flags: &[&str]) -> String {
        let key = text(&self.path("key"));
        let args = [&["token", "mint", key_flag, &key], flags].concat();
        pushonce(args, "").await.expect_success()
    }
}

/// Runs a command that fails, as one of its arguments or with its input, with this text in its message.
async fn expect_refusal<S: AsRef<str>>(
    args: impl IntoIterator<Item = S>,
    input: &str,
    reason: &str,
) {
    let output = pushonce(args, input).await;
    assert!(matches!(output.status.code(), Some(1 | 2)), "{output:?}");
    assert!(output.stderr.contains(reason), "{reason:?} is not in: {}", output.stderr);
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

#[tokio::test]
async fn made_token_is_verified_and_explained() {
    for (algorithm, key_flag) in
        [("EdDSA", "--key"), ("ES256", "--key"), ("HS256", "--secret-file")]
    {
        let files = Files::with_key(algorithm).await;
        let flags = [
            "--subject",
            "alice",
            "--subscribe",
            "chat/**",
            "--publish",
            "chat/*",
            "--deny-subscribe",
            "chat/staff/**",
            "--admin",
            "read",
        ];
        let token = files.mint(key_flag, &flags).await;
        let verify = ["--json", "token", "verify", "--issuers", &files.issuers()];
        let verified = pushonce(verify, &token).await.expect_success();
        let verified: Value = serde_json::from_str(&verified).expect("JSON");
        assert_eq!(verified["subject"], "alice", "{algorithm}");
        assert_eq!(verified["subscribe"][0], "chat/**");
        assert_eq!(verified["deny"]["subscribe"][0], "chat/staff/**");
        assert_eq!(verified["admin"], "read");
        assert_eq!(verified["token_id"].as_str().map(str::len), Some(32));
        let explain =
            ["token", "explain", "--issuers", &files.issuers(), "--topic", "chat/staff/1"];
        let explained = pushonce(explain, &token).await.expect_success();
        let line = |action: &str| {
            let lines = explained.lines().filter(|line| line.trim_start().starts_with(action));
            lines.map(str::to_owned).next().unwrap_or_default()
        };
        assert!(line("subscribe").contains("refused"), "{explained}");
        assert!(line("subscribe").contains("chat/staff/**"), "{explained}");
        assert!(line("read-cluster").contains("allowed"), "{explained}");
        assert!(line("change-cluster").contains("refused"), "{explained}");
    }
}

#[tokio::test]
async fn token_that_nodes_would_refuse_is_refused_with_the_reason() {
    let files = Files::with_key("EdDSA").await;
    let verify = ["token", "verify", "--issuers", &files.issuers()];
    let foreign = Files::with_key("EdDSA").await.mint("--key", &[]).await;
    expect_refusal(verify, &foreign, "the signature of the token is not valid").await;
    let other = files.mint("--key", &["--issuer", "other"]).await;
    expect_refusal(verify, &other, "not one that this cluster accepts").await;
    let other = files.mint("--key", &["--audience", "other"]).await;
    expect_refusal(verify, &other, "audience").await;
    expect_refusal(verify, "garbage", "not a JWT").await;
    expect_refusal(verify, &"x".repeat(100_000), "more than 8192").await;
    let explain = ["--json", "token", "explain", "--unverified", "--topic", "chat/7"];
    let explained = pushonce(explain, &foreign).await.expect_success();
    let explained: Value = serde_json::from_str(&explained).expect("JSON");
    let decisions = explained.as_array().expect("an array");
    assert!(decisions.len() > 10 && decisions.iter().all(|row| row["allowed"] == false));
}

#[tokio::test]
async fn mistakes_are_reported_before_a_token_is_made() {
    let files = Files::with_key("EdDSA").await;
    let key = text(&files.path("key"));
    let public = text(&files.path("key.pub"));
    for (flags, reason) in [
        (vec!["--subscribe", "chat/a*"], "whole segment"),
        (vec!["--admin", "root"], "expected read or write"),
        (vec!["--expires-in", "0s"], "above 0"),
        (vec!["--subject", ""], "1 to 255 bytes"),
        (["--subscribe", "chat/*"].repeat(65), "at most 64"),
    ] {
        let args = [vec!["token", "mint", "--key", &key], flags].concat();
        expect_refusal(args, "", reason).await;
    }
    expect_refusal(["token", "mint", "--key", &public], "", "PRIVATE KEY").await;
    expect_refusal(["token", "mint"], "", "--key").await;
    let short = files.path("short");
    fs::write(&short, "secret").expect("writable");
    let mint = ["token", "mint", "--secret-file", &text(&short)];
    expect_refusal(mint, "", "has 6 bytes").await;
}

#[tokio::test]
async fn key_file_is_private_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt as _;
    let files = Files::with_key("EdDSA").await;
    let key = files.path("key");
    let before = fs::read(&key).expect("a key");
    assert_eq!(fs::metadata(&key).expect("a key").permissions().mode() & 0o777, 0o600);
    expect_refusal(["token", "key", &text(&key)], "", "cannot write").await;
    assert_eq!(fs::read(&key).expect("a key"), before);
}

#[tokio::test]
async fn configuration_with_unusable_issuers_is_refused() {
    let files = Files::with_key("EdDSA").await;
    let check = ["check-config", "--issuers", &files.issuers()];
    let printed = pushonce(check, "").await.expect_success();
    assert!(printed.contains("issuers = "), "{printed}");
    // The printed file has the key itself, and needs no other.
    let public = fs::read_to_string(files.path("key.pub")).expect("a key");
    fs::remove_file(files.path("key.pub")).expect("a key");
    pushonce(check, "").await.expect_success();
    let printed = fs::read_to_string(files.path("issuers.toml")).expect("readable");
    let inline = format!("public-key = \"\"\"\n{}\n\"\"\"", public.trim_end());
    assert!(printed.contains(&inline), "{printed}");
    let with_file = printed.replace(&inline, "file = \"key.pub\"");
    fs::write(files.path("issuers.toml"), with_file).expect("writable");
    expect_refusal(check, "", "key.pub").await;
    fs::copy(files.path("key"), files.path("key.pub")).expect("a key");
    expect_refusal(check, "", "private key").await;
    fs::write(files.path("issuers.toml"), "").expect("writable");
    expect_refusal(check, "", "names no issuer").await;
}
