//! Tickets that another node issued: this node redeems them there, over the port between nodes.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use pushonce_auth::{
    AccessControl, Caller, Grants, InvalidTicket, KeyFingerprint, PatternSet, Ticket, TicketPeers,
    TopicPattern, VerifiedToken,
};
use pushonce_core::{NodeId, Timestamp};
use pushonce_peer::PeerTransport;
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::tickets_service_client::TicketsServiceClient;
use pushonce_proto::pb::peer::v1::tickets_service_server::{TicketsService, TicketsServiceServer};
use tonic::{Code, Request, Response, Status};

/// How long a client waits for the node that issued its ticket.
const REDEEM_TIMEOUT: Duration = Duration::from_secs(2);

/// Redeems tickets at other nodes.
pub(super) struct RemoteTickets {
    pub(super) transport: PeerTransport,
    /// Stands for callers of tickets that were issued without a token.
    pub(super) without_token: Caller,
}

/// Redeems the tickets of this node for other nodes.
pub(super) struct OwnTickets {
    pub(super) transport: PeerTransport,
    pub(super) access: AccessControl,
}

impl TicketPeers for RemoteTickets {
    fn redeem(&self, ticket: Ticket) -> BoxFuture<'static, Result<Caller, InvalidTicket>> {
        let (transport, without_token) = (self.transport.clone(), self.without_token.clone());
        async move {
            let node = ticket.node();
            let unavailable = || InvalidTicket::Unavailable { node };
            // A node that is not a member has no address.
            let channel = transport.data_channel(node).map_err(|_| InvalidTicket::Unknown)?;
            let mut client = TicketsServiceClient::new(channel);
            let call = client.redeem(pb::RedeemRequest { ticket: ticket.secret_text() });
            let response = transport.check_response(node, REDEEM_TIMEOUT, call).await;
            let (_version, response) = response.map_err(|error| match error {
                pushonce_peer::DialError::Failed(status) if status.code() == Code::NotFound => {
                    InvalidTicket::Unknown
                }
                _ => unavailable(),
            })?;
            match response.into_inner().caller {
                Some(caller) => decode_caller(caller).ok_or_else(unavailable),
                None => Ok(without_token),
            }
        }
        .boxed()
    }
}

impl OwnTickets {
    /// The gRPC service for the peer port.
    pub(super) fn service(self) -> TicketsServiceServer<OwnTickets> {
        TicketsServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl TicketsService for OwnTickets {
    async fn redeem(
        &self,
        request: Request<pb::RedeemRequest>,
    ) -> Result<Response<pb::RedeemResponse>, Status> {
        let accepted = self.transport.accept(&request);
        let peer = accepted.map_err(|error| self.transport.reject(&error))?;
        let unknown = |error: InvalidTicket| Status::not_found(error.to_string());
        let ticket: Ticket = request.into_inner().ticket.parse().map_err(unknown)?;
        let tickets = self.access.tickets();
        let caller = tickets.redeem_own(&ticket, self.access.now()).map_err(unknown)?;
        let caller = caller.token().map(encode_caller);
        Ok(self.transport.respond(peer, pb::RedeemResponse { caller }))
    }
}

fn encode_caller(token: &VerifiedToken) -> pb::TicketCaller {
    let texts = |patterns: &[TopicPattern]| patterns.iter().map(ToString::to_string).collect();
    let Grants { subscribe, publish, admin: _ } = &token.grants;
    pb::TicketCaller {
        issuer: token.issuer.to_string(),
        subject: token.subject.as_deref().map(str::to_owned),
        token_id: token.token_id.as_deref().map(str::to_owned),
        issued_at_ms: token.issued_at.map(|time| time.0),
        expires_at_ms: token.expires_at.0,
        subscribe: texts(&subscribe.allow),
        deny_subscribe: texts(&subscribe.deny),
        publish: texts(&publish.allow),
        deny_publish: texts(&publish.deny),
        key_fingerprint: token
            .key
            .map_or_else(Default::default, |key| key.to_bytes().to_vec().into()),
    }
}

/// `None` when a pattern or the fingerprint is malformed: then nothing is granted.
fn decode_caller(caller: pb::TicketCaller) -> Option<Caller> {
    let patterns = |texts: Vec<String>| {
        texts.iter().map(|text| text.parse().ok()).collect::<Option<Vec<TopicPattern>>>()
    };
    let grants = Grants {
        subscribe: PatternSet {
            allow: patterns(caller.subscribe)?,
            deny: patterns(caller.deny_subscribe)?,
        },
        publish: PatternSet {
            allow: patterns(caller.publish)?,
            deny: patterns(caller.deny_publish)?,
        },
        admin: None,
    };
    let key = match &caller.key_fingerprint[..] {
        [] => None,
        bytes => Some(KeyFingerprint::from_bytes(bytes.try_into().ok()?)),
    };
    Some(Caller::with_token(VerifiedToken {
        issuer: caller.issuer.into(),
        subject: caller.subject.map(Arc::from),
        token_id: caller.token_id.map(Arc::from),
        issued_at: caller.issued_at_ms.map(Timestamp),
        expires_at: Timestamp(caller.expires_at_ms),
        grants,
        key,
    }))
}

/// The store of this node's tickets.
pub(super) fn tickets(
    me: NodeId,
    transport: PeerTransport,
    without_token: Caller,
) -> pushonce_auth::Tickets {
    pushonce_auth::Tickets::new(me, Arc::new(RemoteTickets { transport, without_token }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> VerifiedToken {
        let patterns = |texts: &[&str]| texts.iter().map(|t| t.parse().expect("valid")).collect();
        VerifiedToken {
            issuer: "issuer".into(),
            subject: Some("alice".into()),
            token_id: None,
            issued_at: Some(Timestamp(1)),
            expires_at: Timestamp(2),
            grants: Grants {
                subscribe: PatternSet {
                    allow: patterns(&["chat/**"]),
                    deny: patterns(&["chat/x"]),
                },
                publish: PatternSet { allow: patterns(&["chat/*"]), deny: Vec::new() },
                admin: None,
            },
            key: Some(KeyFingerprint::from_bytes([7; KeyFingerprint::BYTES])),
        }
    }

    #[test]
    fn caller_of_a_ticket_round_trips_between_nodes() {
        let decoded = decode_caller(encode_caller(&token()));
        assert_eq!(decoded, Some(Caller::with_token(token())));
        let without_key = VerifiedToken { key: None, ..token() };
        let decoded = decode_caller(encode_caller(&without_key));
        assert_eq!(decoded, Some(Caller::with_token(without_key)));
    }

    #[test]
    fn malformed_fingerprint_of_a_key_grants_nothing() {
        let mut wire = encode_caller(&token());
        wire.key_fingerprint.truncate(15);
        assert_eq!(decode_caller(wire), None);
    }

    #[test]
    fn one_malformed_pattern_grants_nothing() {
        let mut wire = encode_caller(&token());
        wire.publish.push("chat/a*".to_owned());
        assert_eq!(decode_caller(wire), None);
    }
}
