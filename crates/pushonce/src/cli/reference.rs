//! `pushonce completions` and `pushonce man`: what shells and `man` read about the commands.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Command;
use clap_complete::Shell;

use crate::output;

/// The shell that completes commands.
#[derive(clap::Args)]
pub(super) struct CompletionsArgs {
    /// Shell to print the completions for
    shell: Shell,
}

/// Where the manual pages are written.
#[derive(clap::Args)]
pub(super) struct ManArgs {
    /// Folder for the pages; it is created if it does not exist
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Prints the completions of `command`.
pub(super) fn print_completions(
    args: &CompletionsArgs,
    mut command: Command,
) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "pushonce", &mut script);
    let script = String::from_utf8(script).context("the completions are text")?;
    Ok(output::write_text(&script)?)
}

/// Writes the pages of `command` and of its subcommands.
pub(super) fn write_man_pages(args: &ManArgs, command: Command) -> anyhow::Result<()> {
    let folder: &Path = &args.folder;
    let write = || {
        std::fs::create_dir_all(folder)?;
        clap_mangen::generate_to(command, folder)
    };
    write().with_context(|| format!("cannot write manual pages to {}", folder.display()))?;
    output::notice(format!("read them with: man {}", folder.join("pushonce.1").display()));
    Ok(())
}
