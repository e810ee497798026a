//! `pushonce token`: makes keys and tokens, and shows what a token allows. Works without a node.

mod input;
mod inspect;
mod key;
mod mint;

use clap::Subcommand;

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
}

pub(super) async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    match args.command {
        Command::Key(args) => key::run(args, json),
        Command::Mint(args) => mint::run(args, json),
        Command::Verify(args) => inspect::verify(args, json).await,
        Command::Explain(args) => inspect::explain(args, json).await,
    }
}
