//! Set-up: nodes that serve one gRPC service over loopback with mutual TLS, and callers of every kind. Expected:
//! only the nodes that the certificates name are accepted, under their own id; every other caller fails before
//! the service is reached; certificates and authorities are replaced while calls continue.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pushonce_ca::{CertificateAuthority, Fingerprint, IssuedCertificate};
use pushonce_core::{ClusterId, ConsensusTimes, NodeId, SpiffeId};
use pushonce_peer::{
    AuthorityPin, CertificateFiles, CertificateFilesError, CertificateRejection, Credentials,
    DialError, MutualTls, PeerAddresses, PeerTransport, Reload, connect_to_join,
};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::membership_service_client::MembershipServiceClient;
use pushonce_proto::pb::peer::v1::topics_service_client::TopicsServiceClient;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use support::{ServingNode, call, dial_and_call};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

const CLUSTER: ClusterId = ClusterId(7);
const DAY: Duration = Duration::from_secs(86_400);
const TIMEOUT: Duration = Duration::from_secs(10);

/// The files of one node.
struct NodeFiles(TempDir);

impl NodeFiles {
    fn write(authorities: &[&CertificateAuthority], issued: &IssuedCertificate) -> NodeFiles {
        let files = NodeFiles(tempfile::tempdir().expect("a temporary directory"));
        files.replace_authorities(authorities);
        files.replace_certificate(issued);
        files
    }

    fn replace_authorities(&self, authorities: &[&CertificateAuthority]) {
        let bundle: String = authorities.iter().map(|ca| ca.certificate_pem()).collect();
        self.put("ca.crt", &bundle);
    }

    fn replace_certificate(&self, issued: &IssuedCertificate) {
        self.put("node.key", issued.key.expose());
        self.put("node.crt", &issued.certificate);
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        Path::join(self.0.path(), name)
    }

    fn load(&self, admits_joiners: bool) -> Result<MutualTls, CertificateFilesError> {
        self.load_at(admits_joiners, SystemTime::now())
    }

    fn load_at(
        &self,
        admits_joiners: bool,
        now: SystemTime,
    ) -> Result<MutualTls, CertificateFilesError> {
        let files = CertificateFiles {
            certificate: self.path("node.crt"),
            key: self.path("node.key"),
            authorities: self.path("ca.crt"),
        };
        MutualTls::load(files, admits_joiners, now)
    }
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::generate(CLUSTER, SystemTime::now()).expect("made").0
}

fn issue(authority: &CertificateAuthority, node: u64) -> IssuedCertificate {
    let node = SpiffeId { cluster: CLUSTER, node: NodeId(node) };
    authority.issue(node, &[], 90 * DAY, SystemTime::now()).expect("issued")
}

fn tls(authority: &CertificateAuthority, node: u64) -> MutualTls {
    NodeFiles::write(&[authority], &issue(authority, node)).load(false).expect("valid")
}

/// A transport of node `me`, whatever its certificate says.
fn transport(tls: MutualTls, me: u64, known: &[(u64, &str)]) -> PeerTransport {
    let addresses = PeerAddresses::default();
    known.iter().for_each(|&(id, address)| addresses.set(NodeId(id), address));
    let credentials = Credentials::MutualTls(tls);
    PeerTransport::with_credentials(
        credentials,
        CLUSTER,
        NodeId(me),
        addresses,
        &ConsensusTimes::LAN,
    )
}

async fn serve(tls: MutualTls, me: u64) -> ServingNode {
    ServingNode::start(transport(tls, me, &[]), "127.0.0.1:0").await
}

fn callers(node: &ServingNode) -> Vec<NodeId> {
    node.callers.lock().expect("no panic").clone()
}

#[tokio::test]
async fn both_sides_know_each_other_by_their_certificates() {
    let ca = authority();
    let node = serve(tls(&ca, 2), 2).await;
    let caller = transport(tls(&ca, 1), 1, &[(2, &node.address)]);
    dial_and_call(&caller, 2).await.expect("accepted");
    let shared = caller.data_channel(NodeId(2)).expect("an address is known");
    call(&caller, 2, shared).await.expect("accepted");
    assert_eq!(callers(&node), [NodeId(1), NodeId(1)]);
    node.stop().await;
}

#[tokio::test]
async fn greeting_must_agree_with_the_certificate() {
    let ca = authority();
    let node = serve(tls(&ca, 2), 2).await;
    let liar = transport(tls(&ca, 3), 1, &[(2, &node.address)]);
    let error = dial_and_call(&liar, 2).await.expect_err("n3 claims to be n1");
    assert!(error.is_rejection(), "{error}");
    let text = error.to_string();
    assert!(text.contains("claims to be n1") && text.contains("/node/3"), "{text}");
    assert_eq!(callers(&node), []);
}

#[tokio::test]
async fn node_at_the_address_of_another_one_is_rejected_by_the_caller() {
    let ca = authority();
    let other = serve(tls(&ca, 3), 2).await;
    let caller = transport(tls(&ca, 1), 1, &[(2, &other.address)]);
    let error = dial_and_call(&caller, 2).await.expect_err("n3 serves as n2");
    let expected = CertificateRejection::OtherNode { node: NodeId(3), expected: NodeId(2) };
    assert!(matches!(&error, DialError::Certificate(found) if *found == expected), "{error}");
    let shared = caller.data_channel(NodeId(2)).expect("an address is known");
    let error = call(&caller, 2, shared).await.expect_err("n3 serves as n2");
    assert!(error.to_string().contains("n3 answers at the address of n2"), "{error}");
    assert_eq!(callers(&other), []);
}

#[tokio::test]
async fn node_of_another_authority_is_rejected_by_the_caller() {
    let (ours, theirs) = (authority(), authority());
    let impostor = serve(tls(&theirs, 2), 2).await;
    let caller = transport(tls(&ours, 1), 1, &[(2, &impostor.address)]);
    let error = dial_and_call(&caller, 2).await.expect_err("another authority");
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    assert_eq!(callers(&impostor), []);
}

/// A certificate chain and its key, made with a bare library: those that `pushonce ca` does not issue.
type Presented = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// An authority of any names.
fn bare_authority() -> rcgen::CertifiedIssuer<'static, rcgen::KeyPair> {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let key = rcgen::KeyPair::generate().expect("generated");
    rcgen::CertifiedIssuer::self_signed(params, key).expect("signed")
}

fn certificate(
    issuer: &rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
    uris: &[String],
    validity: [SystemTime; 2],
) -> (rcgen::Certificate, rcgen::KeyPair) {
    let mut params = rcgen::CertificateParams::new(["a.example".to_owned()]).expect("valid");
    for uri in uris {
        let uri = uri.as_str().try_into().expect("ASCII");
        params.subject_alt_names.push(rcgen::SanType::URI(uri));
    }
    params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ];
    [params.not_before, params.not_after] = validity.map(Into::into);
    let key = rcgen::KeyPair::generate().expect("generated");
    (params.signed_by(&key, issuer).expect("signed"), key)
}

fn presented((certificate, key): (rcgen::Certificate, rcgen::KeyPair)) -> Presented {
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
    (vec![certificate.der().clone()], key)
}

/// Accepts every server, as an attacker does.
#[derive(Debug)]
struct AnyServer(rustls::crypto::WebPkiSupportedAlgorithms);

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Opens a connection and reads the first bytes that the HTTP/2 server sends after the handshake.
async fn first_bytes(address: &str, client: Option<Presented>) -> std::io::Result<usize> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let any = Arc::new(AnyServer(provider.signature_verification_algorithms));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("supported")
        .dangerous()
        .with_custom_certificate_verifier(any);
    let config = match client {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).expect("valid"),
        None => config.with_no_client_auth(),
    };
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("a.example").expect("valid");
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    let mut bytes = [0; 9];
    stream.read_exact(&mut bytes).await
}

#[tokio::test]
async fn caller_without_an_acceptable_certificate_fails_in_the_handshake() {
    let (ours, theirs) = (bare_authority(), bare_authority());
    let now = SystemTime::now();
    let valid = [now - DAY, now + DAY];
    let id = |cluster, node| SpiffeId { cluster, node: NodeId(node) }.to_string();
    let [n1, n2] = [1, 2].map(|node| id(CLUSTER, node));

    let (own, key) = certificate(&ours, std::slice::from_ref(&n2), valid);
    let files = NodeFiles(tempfile::tempdir().expect("a temporary directory"));
    files.put("ca.crt", &ours.pem());
    files.put("node.crt", &own.pem());
    files.put("node.key", &key.serialize_pem());
    let node = serve(files.load(false).expect("valid"), 2).await;

    let issue = |issuer, uris: &[&String], validity| {
        let uris: Vec<_> = uris.iter().map(|&uri| uri.clone()).collect();
        Some(presented(certificate(issuer, &uris, validity)))
    };
    let other_cluster = id(ClusterId(8), 1);
    let (https, root) = ("https://a.example/node/1".to_owned(), format!("spiffe://{CLUSTER}"));
    let callers = [
        ("no certificate", None),
        ("another authority", issue(&theirs, &[&n1], valid)),
        ("expired", issue(&ours, &[&n1], [now - 2 * DAY, now - DAY])),
        ("not yet valid", issue(&ours, &[&n1], [now + DAY, now + 2 * DAY])),
        ("no URI, as from a public authority", issue(&ours, &[], valid)),
        ("two nodes", issue(&ours, &[&n1, &n2], valid)),
        ("a node and another URI", issue(&ours, &[&n1, &https], valid)),
        ("another URI", issue(&ours, &[&https], valid)),
        ("the cluster and no node", issue(&ours, &[&root], valid)),
        ("another cluster", issue(&ours, &[&other_cluster], valid)),
    ];
    for (name, client) in callers {
        let result = first_bytes(&node.address, client).await;
        assert!(result.is_err(), "{name}: {result:?}");
    }
    let accepted = first_bytes(&node.address, issue(&ours, &[&n1], valid)).await;
    assert_eq!(accepted.expect("the handshake completes"), 9);
}

#[tokio::test]
async fn caller_without_a_certificate_may_join_and_nothing_else() {
    let ca = authority();
    let files = NodeFiles::write(&[&ca], &issue(&ca, 2));
    let node = serve(files.load(true).expect("valid"), 2).await;
    let pin = AuthorityPin { cluster: CLUSTER, authority: ca.info().fingerprint };
    let address = node.address.parse().expect("an address");
    let channel = connect_to_join(pin, &address, TIMEOUT).await.expect("joiners are admitted");

    // A token of a client is no credential here.
    let mut request = tonic::Request::new(pb::TopicsRequest::default());
    let token = "Bearer eyJhbGciOiJFZERTQSJ9.e30.c2lnbmF0dXJl".parse().expect("ASCII");
    request.metadata_mut().insert("authorization", token);
    let call = TopicsServiceClient::new(channel.clone()).topics(request).await;
    assert_eq!(call.expect_err("rejected").code(), Code::Unauthenticated);
    let mut membership = MembershipServiceClient::new(channel);
    let identify = membership.identify(pb::IdentifyRequest::default()).await;
    assert_eq!(identify.expect_err("rejected").code(), Code::Unauthenticated);
    // This server has no membership service: the call got through to the services.
    let join = membership.join(pb::JoinRequest::default()).await;
    assert_eq!(join.expect_err("no such service").code(), Code::Unimplemented);
    assert_eq!(callers(&node), []);
}

#[tokio::test]
async fn silent_connections_keep_no_node_out() {
    let ca = authority();
    let node = serve(tls(&ca, 2), 2).await;
    // More than the maximum of concurrent handshakes (1,024): the oldest give way.
    let mut silent = Vec::new();
    for _ in 0..1_100 {
        silent.push(TcpStream::connect(&node.address).await.expect("accepted"));
    }
    let caller = transport(tls(&ca, 1), 1, &[(2, &node.address)]);
    dial_and_call(&caller, 2).await.expect("a handshake in time");
    let closed = silent[0].read_u8().await;
    assert!(closed.is_err(), "the oldest silent connection is open: {closed:?}");
    node.stop().await;
}

#[tokio::test]
async fn joining_node_recognises_its_cluster_by_the_authority_of_its_token() {
    let (ca, other) = (authority(), authority());
    let files = NodeFiles::write(&[&ca], &issue(&ca, 2));
    let node = serve(files.load(true).expect("valid"), 2).await;
    let address = node.address.parse().expect("an address");
    let connect = async |cluster, authority: Fingerprint| {
        connect_to_join(AuthorityPin { cluster, authority }, &address, TIMEOUT).await
    };
    connect(CLUSTER, ca.info().fingerprint).await.expect("recognised");
    let error = connect(CLUSTER, other.info().fingerprint).await.expect_err("another authority");
    assert!(
        matches!(error, DialError::Certificate(CertificateRejection::OtherAuthority)),
        "{error}"
    );
    let error = connect(ClusterId(8), ca.info().fingerprint).await.expect_err("another cluster");
    assert!(
        matches!(error, DialError::Certificate(CertificateRejection::OtherCluster { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn plain_text_and_tls_do_not_mix() {
    let ca = authority();
    let secured = serve(tls(&ca, 2), 2).await;
    let plaintext = |me, known: &[(u64, &str)]| {
        let addresses = PeerAddresses::default();
        known.iter().for_each(|&(id, address)| addresses.set(NodeId(id), address));
        PeerTransport::new(CLUSTER, NodeId(me), addresses, &ConsensusTimes::LAN)
    };
    let caller = plaintext(1, &[(2, &secured.address)]);
    dial_and_call(&caller, 2).await.expect_err("the server speaks TLS only");

    let open = ServingNode::start(plaintext(2, &[]), "127.0.0.1:0").await;
    let caller = transport(tls(&ca, 1), 1, &[(2, &open.address)]);
    dial_and_call(&caller, 2).await.expect_err("the caller speaks TLS only");
    assert_eq!((callers(&secured), callers(&open)), (vec![], vec![]));
}

/// Calls on an open channel and on a new connection.
async fn assert_linked(caller: &PeerTransport, open: &pushonce_peer::PeerChannel, step: &str) {
    call(caller, 2, open.clone()).await.unwrap_or_else(|error| panic!("{step}, open: {error}"));
    dial_and_call(caller, 2).await.unwrap_or_else(|error| panic!("{step}, new: {error}"));
}

#[tokio::test]
async fn certificates_and_authorities_are_replaced_while_calls_continue() {
    let (old, new) = (authority(), authority());
    let files = [1, 2].map(|node| NodeFiles::write(&[&old], &issue(&old, node)));
    let [tls1, tls2] = [0, 1].map(|n: usize| files[n].load(false).expect("valid"));
    let node = serve(tls2.clone(), 2).await;
    let caller = transport(tls1.clone(), 1, &[(2, &node.address)]);
    let open = caller.data_channel(NodeId(2)).expect("an address is known");
    assert_linked(&caller, &open, "before").await;
    let reload = |tls: &MutualTls| tls.reload(SystemTime::now()).expect("valid");
    assert_eq!(reload(&tls1), Reload::Unchanged);

    for (step, tls, files) in [("n2", &tls2, &files[1]), ("n1", &tls1, &files[0])] {
        let before = tls.certificate().fingerprint;
        files.replace_certificate(&issue(&old, tls.node().node.0));
        assert!(matches!(reload(tls), Reload::Replaced(_)));
        assert_ne!(tls.certificate().fingerprint, before);
        assert_linked(&caller, &open, &format!("the certificate of {step} is replaced")).await;
    }
    // A new authority: first accepted, then used, then the old one dropped.
    for (tls, files) in [(&tls2, &files[1]), (&tls1, &files[0])] {
        files.replace_authorities(&[&old, &new]);
        assert!(matches!(reload(tls), Reload::Replaced(_)));
        assert_linked(&caller, &open, "both authorities are accepted").await;
    }
    for (tls, files) in [(&tls2, &files[1]), (&tls1, &files[0])] {
        files.replace_certificate(&issue(&new, tls.node().node.0));
        assert!(matches!(reload(tls), Reload::Replaced(_)));
        assert_eq!(tls.issuer(), new.info().fingerprint);
        assert_linked(&caller, &open, "the new authority is used").await;
    }
    for (tls, files) in [(&tls2, &files[1]), (&tls1, &files[0])] {
        files.replace_authorities(&[&new]);
        assert!(matches!(reload(tls), Reload::Replaced(_)));
        assert_linked(&caller, &open, "the old authority is dropped").await;
    }
    let revoked = transport(self::tls(&old, 3), 3, &[(2, &node.address)]);
    dial_and_call(&revoked, 2).await.expect_err("the old authority counts no longer");
}

#[tokio::test]
async fn bad_new_files_change_nothing() {
    let (ca, other) = (authority(), authority());
    let files = NodeFiles::write(&[&ca], &issue(&ca, 2));
    let tls = files.load(false).expect("valid");
    let node = serve(tls.clone(), 2).await;
    let caller = transport(self::tls(&ca, 1), 1, &[(2, &node.address)]);
    let good = issue(&ca, 2);
    let expired = SpiffeId { cluster: CLUSTER, node: NodeId(2) };
    let expired = ca.issue(expired, &[], DAY, SystemTime::now() - 3 * DAY).expect("issued");
    let half = IssuedCertificate { certificate: String::new(), key: good.key.clone() };
    let cut = IssuedCertificate {
        certificate: good.certificate[..200].to_owned(),
        key: good.key.clone(),
    };
    let other_key =
        IssuedCertificate { certificate: good.certificate.clone(), key: issue(&ca, 2).key };
    let cases = [
        ("an empty certificate", half),
        ("a certificate that is being written", cut),
        ("another key", other_key),
        ("another node", issue(&ca, 3)),
        ("another authority", issue(&other, 2)),
        ("an expired certificate", expired),
    ];
    for (name, issued) in cases {
        files.replace_certificate(&issued);
        let result = tls.reload(SystemTime::now());
        assert!(result.is_err(), "{name}: {result:?}");
        dial_and_call(&caller, 2).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    std::fs::remove_file(files.path("node.crt")).expect("removed");
    tls.reload(SystemTime::now()).expect_err("the certificate is missing");
    dial_and_call(&caller, 2).await.expect("the old files stay in use");
    files.replace_certificate(&good);
    let replaced = tls.reload(SystemTime::now());
    assert!(matches!(replaced, Ok(Reload::Replaced(_))), "{replaced:?}");
}

#[test]
fn node_does_not_start_with_files_that_peers_would_reject() {
    let (ca, other) = (authority(), authority());
    let files = NodeFiles::write(&[&ca], &issue(&ca, 2));
    assert!(files.load(false).is_ok());
    let late = files.load_at(false, SystemTime::now() + 91 * DAY).expect_err("expired");
    assert!(late.to_string().contains("renew it"), "{late}");
    files.load_at(false, SystemTime::now() - DAY).expect_err("not yet valid");
    files.replace_authorities(&[&other]);
    files.load(false).expect_err("another authority");
    files.put("ca.crt", &issue(&ca, 3).certificate);
    let error = files.load(false).expect_err("no authority");
    assert!(matches!(error, CertificateFilesError::NoAuthority { .. }), "{error}");
    files.replace_authorities(&[&ca]);
    files.put("node.key", issue(&ca, 2).key.expose());
    let error = files.load(false).expect_err("another key");
    assert!(matches!(error, CertificateFilesError::Key { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("PRIVATE"), "{error:?}");
}
