//! `pushonce token key`: makes a key that signs tokens.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pushonce_auth::{Algorithm, NewKey, SigningKey};
use serde_json::json;

use crate::cli::operator::print_output;

#[derive(clap::Args)]
pub(super) struct Args {
    /// File for the private key, which must not exist yet. Only its owner can read it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// EdDSA, ES256, or HS256, with which every node could make tokens too
    #[arg(long, value_name = "NAME", default_value_t = Algorithm::EdDsa)]
    algorithm: Algorithm,
}

pub(super) fn run(args: Args, json: bool) -> anyhow::Result<()> {
    let Args { file, algorithm } = args;
    let NewKey { private, public } = SigningKey::generate(algorithm)?;
    write_new(&file, &private, 0o600)?;
    // HS256 has no public key: nodes need the secret.
    let verifying = match &public {
        Some(public) => {
            let path = with_suffix(&file, ".pub");
            write_new(&path, public, 0o644)?;
            path
        }
        None => file.clone(),
    };
    let verifying = std::path::absolute(&verifying)?;
    let (nodes_need, member) = match &public {
        // The issuers file is complete: it can be copied to every node.
        Some(public) => {
            ("no other file", format!("public-key = \"\"\"\n{}\n\"\"\"", public.trim_end()))
        }
        None => ("this file, too", format!("secret-file = {:?}", verifying.display().to_string())),
    };
    print_output(
        json,
        || json!({ "algorithm": algorithm.as_str(), "private": file, "verifying": verifying }),
        || {
            format!(
                "# Made {}. Keep it where tokens are made. Put this into the file of `serve --issuers`;\n\
                 # nodes need {nodes_need}.\n\
                 [[issuer]]\nissuer = \"pushonce\"\naudience = \"pushonce\"\n\n\
                 [[issuer.key]]\nalgorithm = \"{algorithm}\"\n{member}\n",
                file.display(),
            )
        },
    )?;
    Ok(())
}

/// Writes a file that does not exist yet.
fn write_new(path: &Path, content: &str, mode: u32) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(content.as_bytes()).and_then(|()| file.sync_all()))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
