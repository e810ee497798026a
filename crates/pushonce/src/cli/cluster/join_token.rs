//! `pushonce cluster token` and `pushonce cluster tokens`: makes, lists and revokes join tokens.

use std::time::{Duration, UNIX_EPOCH};

use pushonce_proto::pb::cluster::v1::{
    CreateJoinTokenRequest, JoinToken, JoinTokensRequest, RevokeJoinTokenRequest,
};
use serde_json::{Value, json};

use super::super::operator::{OperatorClient, print_output, status_error};
use super::text::{node_label, table};
use crate::config::HumanDuration;
use crate::output;

/// Validity of the new token, or the token to revoke.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Time for which the token is valid, at most 30 days
    #[arg(long, value_name = "TIME", default_value = "1h")]
    expires_in: HumanDuration,
    /// Revoke a token instead: its id, as `pushonce cluster tokens` lists it
    #[arg(long, value_name = "ID", conflicts_with = "expires_in")]
    revoke: Option<String>,
}

/// Makes a token, and prints it alone to standard output: it is stored nowhere else.
pub(super) async fn run(client: &mut OperatorClient, args: Args, json: bool) -> anyhow::Result<()> {
    if let Some(id) = args.revoke {
        let request = RevokeJoinTokenRequest { id: id.clone() };
        client.revoke_join_token(request).await.map_err(status_error)?;
        let text = || format!("join token {id} is revoked\n");
        print_output(json, || json!({"id": id, "state": "revoked"}), text)?;
        return Ok(());
    }
    let validity_ms = u64::try_from(args.expires_in.0.as_millis()).unwrap_or(u64::MAX);
    let request = CreateJoinTokenRequest { validity_ms };
    let response = client.create_join_token(request).await.map_err(status_error)?.into_inner();
    let status = response.status.unwrap_or_default();
    if !json {
        output::notice(format!(
            "join token {}, for one node until {}: start the node with --join HOST:PORT of a node that has \
             --peer-ca-key, and with the token in a file that only its owner can read (--join-token-file FILE) or \
             in the variable PUSHONCE_JOIN_TOKEN",
            status.id,
            timestamp(&status),
        ));
    }
    let as_json = || {
        let mut value = token_json(&status);
        value["token"] = json!(response.token);
        value
    };
    print_output(json, as_json, || format!("{}\n", response.token))?;
    Ok(())
}

/// Lists the tokens, without their secrets.
pub(super) async fn list(client: &mut OperatorClient, json: bool) -> anyhow::Result<()> {
    let response = client.join_tokens(JoinTokensRequest {}).await.map_err(status_error)?;
    let tokens = response.into_inner().tokens;
    let as_json = || json!({"tokens": tokens.iter().map(token_json).collect::<Vec<_>>()});
    print_output(json, as_json, || tokens_text(&tokens))?;
    Ok(())
}

fn tokens_text(tokens: &[JoinToken]) -> String {
    let row = |token: &JoinToken| [token.id.clone(), timestamp(token), node_label(token.used_by)];
    table(["id", "expires", "used by"], tokens.iter().map(row).collect())
}

fn token_json(token: &JoinToken) -> Value {
    json!({
        "id": token.id,
        "expires": timestamp(token),
        "used_by": (token.used_by != 0).then_some(token.used_by),
    })
}

fn timestamp(token: &JoinToken) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(token.expires_ms));
    humantime::format_rfc3339_seconds(time.unwrap_or(UNIX_EPOCH)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_listed_with_their_expiry_and_user() {
        let token = |id: &str, used_by| JoinToken { id: id.to_owned(), expires_ms: 1_000, used_by };
        let text = tokens_text(&[token("00000000000000a1", 0), token("00000000000000b2", 4)]);
        let expected = "  id                expires               used by\n  \
                        00000000000000a1  1970-01-01T00:00:01Z  -\n  \
                        00000000000000b2  1970-01-01T00:00:01Z  n4\n";
        assert_eq!(text, expected);
    }
}
