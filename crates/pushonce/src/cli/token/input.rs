//! Where the token comes from: never the command line, which every process of the machine can read.

use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;

use anyhow::Context as _;
use pushonce_auth::Authenticator;

use crate::cli::access_token::TOKEN_VARIABLE;
use crate::output;

/// The source of the token.
#[derive(clap::Args)]
pub(super) struct TokenInput {
    /// File with the token. Without it the token is that of the variable PUSHONCE_TOKEN, else it is read from
    /// standard input
    #[arg(long, env = "PUSHONCE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenInput {
    /// The token, without the white space around it.
    pub(super) fn read(&self) -> anyhow::Result<String> {
        let text = if let Some(path) = &self.token_file {
            let read = std::fs::read_to_string(path);
            read.with_context(|| format!("cannot read the token file {}", path.display()))?
        } else if let Some(token) = std::env::var(TOKEN_VARIABLE).ok().filter(|it| !it.is_empty()) {
            token
        } else {
            if std::io::stdin().is_terminal() {
                output::notice("reading a token from the terminal; end it with Ctrl-D");
            }
            read_standard_input().context("cannot read a token from standard input")?
        };
        Ok(text.trim().to_owned())
    }
}

fn read_standard_input() -> std::io::Result<String> {
    // Somewhat more than the longest token: the rest only matters to say that it is too long.
    let max = 2 * Authenticator::TOKEN_BYTES_MAX as u64;
    let mut text = String::new();
    std::io::stdin().take(max).read_to_string(&mut text)?;
    Ok(text)
}
