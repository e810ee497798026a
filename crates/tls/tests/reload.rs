//! The loading of certificates, and what happens when their files change.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use pushonce_telemetry::test_util::TestRecorder;
use pushonce_tls::test_util::{IssuedCertificate, TestAuthority};
use pushonce_tls::{CertificateError, CertificateFiles, CertificateStore};
use tokio::sync::watch;

const NAME: &str = "tls-cert";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn load(files: &CertificateFiles) -> Result<CertificateStore, CertificateError> {
    CertificateStore::load(NAME, files.clone(), SystemTime::now())
}

/// A directory with the files of a certificate, and the store that loaded them.
fn loaded(authority: &TestAuthority) -> (tempfile::TempDir, CertificateFiles, CertificateStore) {
    let directory = tempfile::tempdir().expect("a directory");
    let files = authority.issue(SystemTime::now()).write(directory.path());
    let store = load(&files).expect("valid files");
    (directory, files, store)
}

#[test]
fn unusable_files_are_refused_with_the_path_and_the_reason() {
    let (authority, now) = (TestAuthority::new(), SystemTime::now());
    let [first, second] = [(); 2].map(|()| authority.issue(now));
    let garbage = || "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n".to_owned();
    let not_der = || "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    let expired = authority.issue_valid(now - 2 * DAY, now - DAY);
    let future = authority.issue_valid(now + DAY, now + 2 * DAY);
    let cases = [
        (first.chain.clone(), second.key.clone(), "does not belong to the first certificate"),
        (first.key.clone(), first.key.clone(), "contains no valid certificate"),
        (first.chain.clone(), first.chain.clone(), "contains no private key"),
        (first.chain.clone(), String::new(), "contains no private key"),
        (String::new(), first.key.clone(), "contains no valid certificate"),
        (garbage(), first.key.clone(), "contains no valid certificate"),
        (not_der(), first.key.clone(), "cannot be used"),
        ("x".repeat((1 << 20) + 1), first.key.clone(), "more than 1048576 bytes"),
        (expired.chain, expired.key, "expired at"),
        (future.chain, future.key, "not valid before"),
    ];
    let directory = tempfile::tempdir().unwrap();
    for (chain, key, reason) in cases {
        let files = IssuedCertificate { chain, key }.write(directory.path());
        let text = load(&files).expect_err(reason).to_string();
        assert!(text.contains(reason), "{text:?} instead of {reason:?}");
        assert!(text.contains(directory.path().to_str().unwrap()), "{text}");
    }
    let missing = CertificateFiles { chain: "/nonexistent/a".into(), key: "/nonexistent/b".into() };
    let text = load(&missing).unwrap_err().to_string();
    assert!(text.contains("cannot read /nonexistent/a"), "{text}");
}

#[test]
fn no_output_contains_the_key() {
    let authority = TestAuthority::new();
    let (directory, files, store) = loaded(&authority);
    let key = fs::read_to_string(&files.key).unwrap();
    let secret = key.lines().nth(1).unwrap();
    let damaged = IssuedCertificate {
        chain: fs::read_to_string(&files.chain).unwrap(),
        key: key.replacen('M', "!", 1),
    };
    let error = load(&damaged.write(directory.path())).unwrap_err();
    let output = format!("{store:?} {error} {error:?}");
    assert!(!output.contains(&secret[10..30]), "{output}");
}

#[test]
fn changed_files_are_loaded_and_counted() {
    let recorder = TestRecorder::default();
    recorder.run(|| {
        let authority = TestAuthority::new();
        let (directory, _, store) = loaded(&authority);
        let first = store.chain();
        store.reload(SystemTime::now());
        assert_eq!(store.chain(), first, "the files did not change");
        let expires = SystemTime::now() + 20 * DAY;
        authority.issue_valid(SystemTime::now() - DAY, expires).write(directory.path());
        store.reload(SystemTime::now());
        assert_ne!(store.chain(), first);
        assert_eq!(recorder.value("pushonce_tls_reloads_total", &[NAME]), 1.0);
        let gauge = recorder.value("pushonce_tls_certificate_expiry_timestamp_seconds", &[NAME]);
        let seconds = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(gauge, seconds as f64);
    });
}

#[test]
fn bad_files_leave_the_previous_certificate_in_use_until_good_ones_follow() {
    let recorder = TestRecorder::default();
    recorder.run(|| {
        let (authority, now) = (TestAuthority::new(), SystemTime::now());
        let (directory, files, store) = loaded(&authority);
        let first = store.chain();
        let other = authority.issue(now);
        let bad: [&dyn Fn(); 4] = [
            &|| fs::write(&files.key, &other.key).unwrap(),
            &|| fs::write(&files.chain, "").unwrap(),
            &|| drop(authority.issue_valid(now - 2 * DAY, now - DAY).write(directory.path())),
            &|| fs::remove_file(&files.chain).unwrap(),
        ];
        for (count, change) in (1..).zip(bad) {
            change();
            store.reload(now);
            assert_eq!(store.chain(), first);
            let failures = recorder.value("pushonce_tls_reload_failures_total", &[NAME]);
            assert_eq!(failures, f64::from(count));
        }
        other.write(directory.path());
        store.reload(now);
        assert_ne!(store.chain(), first);
    });
}

/// Kubernetes mounts a secret as symlinks through `..data`, and renames a new `..data` over the old one.
#[test]
fn swapped_symlink_is_followed() {
    let (authority, now) = (TestAuthority::new(), SystemTime::now());
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let mount = |version: &str| {
        fs::create_dir(root.join(version)).unwrap();
        authority.issue(now).write(&root.join(version));
        symlink(version, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    mount("..1");
    let link = |name: &str| {
        let path = root.join(name);
        symlink(Path::new("..data").join(name), &path).unwrap();
        path
    };
    let store = load(&CertificateFiles { chain: link("tls.crt"), key: link("tls.key") }).unwrap();
    let first = store.chain();
    mount("..2");
    store.reload(now);
    assert_ne!(store.chain(), first);
}

#[tokio::test(start_paused = true)]
async fn files_are_read_every_30_seconds_and_on_request() {
    let authority = TestAuthority::new();
    let (directory, _, store) = loaded(&authority);
    let (request, requests) = watch::channel(());
    let running = tokio::spawn(store.clone().run(requests));
    for wait in [Duration::from_secs(31), Duration::from_millis(10)] {
        let before = store.chain();
        authority.issue(SystemTime::now()).write(directory.path());
        if wait < Duration::from_secs(1) {
            request.send_replace(());
        }
        let start = tokio::time::Instant::now();
        while store.chain() == before {
            assert!(start.elapsed() < wait, "not reloaded after {wait:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    running.abort();
}
