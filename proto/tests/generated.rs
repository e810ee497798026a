//! The generated code is that of the `.proto` files. It is checked in, so that builds of the crate and of its users
//! need no compiler for them. `UPDATE_EXPECT=1 cargo test -p pushonce-proto --test generated` writes it anew.

use std::path::Path;
use std::{env, fs};

use prost::Message as _;

const FILES: [&str; 4] = [
    "pushonce/publisher/v1/publisher.proto",
    "pushonce/cluster/v1/cluster.proto",
    "pushonce/client/v1/client.proto",
    "pushonce/peer/v1/peer.proto",
];

/// The contracts that the port of publishers and operators serves and lists by reflection, without the
/// services between nodes.
const PUBLIC: [&str; 2] = [FILES[0], FILES[1]];

/// Writes the code of all contracts and the descriptors of the public ones into `folder`.
fn generate(folder: &Path) {
    let root = env!("CARGO_MANIFEST_DIR");
    let [all, public] = [&FILES[..], &PUBLIC].map(|files| protox::compile(files, [root]));
    let public = public.expect("the public files compile").encode_to_vec();
    fs::write(folder.join("public.bin"), public).expect("written");
    // Payloads stay slices of the buffer they arrived in.
    let code = tonic_prost_build::configure().bytes(".").out_dir(folder);
    code.compile_fds(all.expect("the files compile")).expect("generated");
}

#[test]
fn generated_code_is_that_of_the_proto_files() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    let fresh = tempfile::tempdir().expect("a folder");
    generate(fresh.path());
    let mut names = Vec::new();
    for file in fs::read_dir(fresh.path()).expect("a folder") {
        let file = file.expect("a file");
        let (from, to) = (file.path(), kept.join(file.file_name()));
        if env::var_os("UPDATE_EXPECT").is_some() {
            fs::copy(&from, &to).expect("copied");
        }
        let is_equal = fs::read(&from).expect("readable") == fs::read(&to).unwrap_or_default();
        assert!(is_equal, "{} is old: run this test with UPDATE_EXPECT=1", to.display());
        names.push(file.file_name());
    }
    let kept = fs::read_dir(&kept).expect("a folder").map(|file| file.expect("a file").file_name());
    let unknown: Vec<_> = kept.filter(|name| !names.contains(name)).collect();
    assert!(unknown.is_empty(), "no .proto file makes {unknown:?}: remove them");
}
