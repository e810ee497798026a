//! The access token of a command: from a file or a variable, since every process of the machine can read the
//! command line of another.

use std::path::PathBuf;

use pushonce_client::{AccessToken, TokenProvider};

/// The variable with a token.
pub(crate) const TOKEN_VARIABLE: &str = "PUSHONCE_TOKEN";

/// Where the token comes from.
#[derive(clap::Args)]
pub(super) struct TokenArgs {
    /// File with the access token, read again for every connection. Without it the token is that of the variable
    /// PUSHONCE_TOKEN, if it is set
    #[arg(long, global = true, env = "PUSHONCE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// The source of the token; `None` for a server that needs none.
    pub(super) fn provider(&self) -> Option<TokenProvider> {
        if let Some(file) = &self.token_file {
            return Some(TokenProvider::file(file));
        }
        let token = std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty())?;
        Some(TokenProvider::fixed(AccessToken::new(token.trim())))
    }
}
