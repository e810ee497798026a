//! `CONFIG.md`: every setting of a node, and the other variables of the command line.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Arg, Command};

use super::layer::settings_command;
use super::{JOIN_TOKEN_VARIABLE, variable};
use crate::cli::access_token::TOKEN_VARIABLE;

/// The variables without a flag, since other processes can read a command line.
const VARIABLES_WITH_SECRETS: [&str; 2] = [TOKEN_VARIABLE, JOIN_TOKEN_VARIABLE];

/// The types of the values by their name in the help text: how a value is written, and its unit.
const TYPES: [(&str, &str, &str); 13] = [
    ("ADDR", "IP address and port to listen on, as in `127.0.0.1:7080` or `[::1]:7080`", "–"),
    ("ADDRS", "`HOST:PORT`, several separated by `,`; in the file, an array of strings", "–"),
    ("DIR", "path", "–"),
    ("FILE", "path", "–"),
    ("HOST", "DNS name or IP address without port; an IPv6 address in brackets", "–"),
    ("N", "whole number", "–"),
    ("NAME", "up to 63 letters, digits, `-`, `_` and `.`", "–"),
    (
        "ORIGINS",
        "`SCHEME://HOST`, `SCHEME://HOST:PORT` or `*`, several separated by `,`; in the file, an array of strings",
        "–",
    ),
    ("ROLES", "`core`, `edge` or `core,edge`", "–"),
    ("SIZE", "number with `KiB`, `MiB`, `GiB` or `TiB`, as in `256MiB`, or without unit", "bytes"),
    ("TIME", "number with unit, as in `150ms`, `25s`, `5m` or `1h 30m`", "ms, s, m, h, d"),
    ("lan|wan", "`lan` or `wan`", "–"),
    (
        "on|off",
        "`on` or `off`, `true` or `false`; `--insecure` and `--pin-lanes` without a value mean `on`",
        "–",
    ),
];

/// A variable of the command line that is no setting of a node.
#[derive(Default)]
struct OtherVariable {
    flags: BTreeSet<String>,
    commands: BTreeSet<String>,
    help: String,
    default: String,
}

/// The content of `CONFIG.md`, with the variables that the commands of `cli` read.
pub(crate) fn reference(cli: &Command) -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         Every setting of a node (`serve`, `init`, `check-config`). Generated from the code: do not edit; run \
         `scripts/fix`.\n\n\
         A setting is a flag, an environment variable, or a key of the TOML file that `--config` names. A flag \
         overrides the variable, and both override the file. An empty variable counts as not set. Unknown \
         keys and unknown `PUSHONCE_…` variables are rejected. `pushonce check-config` prints the resulting \
         configuration as a file. A change takes effect at the next start of the node.\n\n\
         ```sh\n\
         pushonce serve --name a --memory-max 4GiB\n\
         PUSHONCE_NAME=a PUSHONCE_MEMORY_MAX=4GiB pushonce serve\n\
         printf 'name = \"a\"\\nmemory-max = \"4GiB\"\\n' > a.toml && pushonce serve --config a.toml\n\
         ```\n",
    );
    page += &settings_tables();
    page += &types_table();
    page += &other_variables_table(cli);
    page
}

/// The variables that the commands of `cli` read, settings of a node excepted.
pub(crate) fn other_variables(cli: &Command) -> Vec<String> {
    collect_variables(cli).into_keys().chain(VARIABLES_WITH_SECRETS.map(str::to_owned)).collect()
}

fn settings_tables() -> String {
    let mut page = String::new();
    let mut heading = None;
    for arg in settings_command().get_arguments() {
        if arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            page += &format!(
                "\n## {}\n\n| flag | variable | key | type | unit | default | meaning |\n\
                 |---|---|---|---|---|---|---|\n",
                heading.unwrap_or_default()
            );
        }
        page += &setting_row(arg);
    }
    page
}

fn setting_row(arg: &Arg) -> String {
    let name = arg.get_long().unwrap_or_default();
    let type_name = type_name(arg);
    let unit = TYPES.iter().find(|(name, ..)| *name == type_name).map_or("–", |(.., unit)| unit);
    let (meaning, default) = meaning_and_default(arg);
    let cells = [
        format!("`--{name}`"),
        format!("`{}`", variable(name)),
        format!("`{name}`"),
        format!("`{type_name}`"),
        unit.to_owned(),
        default,
        meaning,
    ];
    row(&cells)
}

fn types_table() -> String {
    let rows = TYPES.map(|(name, form, _)| row(&[format!("`{name}`"), form.to_owned()]));
    format!("\n## Types\n\n| type | form |\n|---|---|\n{}", rows.concat())
}

fn other_variables_table(cli: &Command) -> String {
    let rows = collect_variables(cli).into_iter().map(|(name, variable)| {
        let OtherVariable { flags, commands, help, default } = variable;
        let list = |words: BTreeSet<String>| words.into_iter().collect::<Vec<_>>().join(", ");
        row(&[format!("`{name}`"), list(flags), list(commands), default, help])
    });
    format!(
        "\n## Other variables\n\nNo keys of the file. The flag overrides the variable. Two variables have no flag, \
         since other processes can read a command line: `{TOKEN_VARIABLE}` is the access token of the commands \
         with `--token-file`, and `{JOIN_TOKEN_VARIABLE}` the join token of a node without \
         `--join-token-file`.\n\n\
         | variable | flag | commands | default | meaning |\n|---|---|---|---|---|\n{}",
        rows.collect::<String>()
    )
}

fn collect_variables(cli: &Command) -> BTreeMap<String, OtherVariable> {
    let mut variables = BTreeMap::new();
    collect_variables_of(cli, "", &mut variables);
    variables
}

/// Collects the variables of a command, which is named by the words before its flags, and of its subcommands.
fn collect_variables_of(
    command: &Command,
    words: &str,
    variables: &mut BTreeMap<String, OtherVariable>,
) {
    for arg in command.get_arguments() {
        if let Some(name) = arg.get_env() {
            let variable =
                variables.entry(name.to_string_lossy().into_owned()).or_insert_with(|| {
                    let (help, default) = meaning_and_default(arg);
                    OtherVariable { help, default, ..OtherVariable::default() }
                });
            variable.flags.insert(format!("`--{}`", arg.get_long().unwrap_or_default()));
            variable.commands.insert(if words.is_empty() {
                "all".to_owned()
            } else {
                format!("`{words}`")
            });
        }
    }
    for subcommand in command.get_subcommands() {
        let words = format!("{words} {}", subcommand.get_name());
        collect_variables_of(subcommand, words.trim_start(), variables);
    }
}

/// The help text and the default, which is at the end of the text where it is computed.
fn meaning_and_default(arg: &Arg) -> (String, String) {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    if let Some((meaning, default)) = help.split_once(" [default: ") {
        return (format!("{meaning}."), default.trim_end_matches(']').to_owned());
    }
    let defaults: Vec<_> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = match defaults.join(",") {
        text if text.is_empty() => "–".to_owned(),
        text => format!("`{text}`"),
    };
    (format!("{help}."), default)
}

fn type_name(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    names.iter().map(|name| name.as_str()).collect()
}

fn row(cells: &[String]) -> String {
    let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_heading_a_type_and_a_meaning() {
        for arg in settings_command().get_arguments() {
            let name = arg.get_id();
            assert!(arg.get_help_heading().is_some(), "{name} has no heading");
            let type_name = type_name(arg);
            assert!(TYPES.iter().any(|(name, ..)| *name == type_name), "{name}: {type_name}");
            assert!(arg.get_help().is_some(), "{name} has no comment");
        }
    }
}
