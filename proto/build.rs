//! Generates the code of the wire contracts. The compiler for `.proto` files is a crate, so that a build
//! does not need `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

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

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=pushonce");
    let descriptors = protox::compile(FILES, ["."])?;
    let public = protox::compile(PUBLIC, ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("public.bin"), public.encode_to_vec())?;
    // The lint test reads these descriptors.
    fs::write(out.join("all.bin"), descriptors.encode_to_vec())?;
    // Payloads stay slices of the buffer they arrived in.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
