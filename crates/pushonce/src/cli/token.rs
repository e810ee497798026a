//! `pushonce token`: makes keys and tokens, shows what a token allows, and revokes tokens. Only the revocations
//! need a node.

mod input;
mod inspect;
mod key;
mod mint;

use clap::Subcommand;

use super::revocation;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a key that signs tokens: write it to a file, and its public key to FILE.pub for the nodes
    Key(key::Args),
    /// Make a token and print it
    Mint(mint::Args),
    /// Verify the token on standard input as a node would, and show what it says
    Verify(inspect::VerifyArgs),
    /// Show what the token on standard input allows, and which grant decides
    Explain(inspect::ExplainArgs),
    /// No longer accept tokens, at every node: those of an id, of a subject, or issued before a time
    Revoke(revocation::RevokeArgs),
    /// List the tokens that are no longer accepted
    Revocations(revocation::ListArgs),
}

pub(super) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    match args.command {
        Command::Key(args) => key::run(args, json),
        Command::Mint(args) => mint::run(args, json),
        Command::Verify(args) => inspect::verify(args, json).await,
        Command::Explain(args) => inspect::explain(args, json).await,
        Command::Revoke(args) => revocation::revoke(args, json).await,
        Command::Revocations(args) => revocation::list(args, json).await,
    }
}
