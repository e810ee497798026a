//! One-use tickets, for clients that cannot send a header: `EventSource`, and WebTransport in browsers.
//!
//! A ticket appears in the query of a URL, and so in the logs of proxies. It therefore works once, within 30
//! seconds, and stands for a token without its admin grant.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use pushonce_core::{CallerKey, NodeId, Timestamp, Topic};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use self::issued::{IssuedTicket, IssuedTickets};
use crate::metrics::TICKETS;
use crate::{Caller, Grants, PatternSet, TopicPattern, VerifiedToken};

mod issued;

/// How long a ticket can be redeemed: a page asks for it and connects at once.
const LIFETIME_MS: u64 = 30_000;

/// Bytes of a ticket besides its patterns: the token with its names, and the entries of the maps.
const TICKET_BYTES: usize = 600;

/// Bytes of a pattern besides its text.
const PATTERN_BYTES: usize = 40;

/// Maximum number of topics that a ticket can be bound to.
pub const TICKET_TOPICS_MAX: usize = 64;

/// A ticket: the node that issued it, its id there, and a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    node: NodeId,
    id: u64,
    secret: [u8; 32],
}

/// Why a ticket is not accepted, or not issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTicket {
    /// The text is not a ticket.
    #[error("the ticket is malformed; get one with POST /tickets")]
    Malformed,
    /// No ticket has this id and secret: it was redeemed, or is too old.
    #[error("the ticket is used, too old or unknown; get a new one with POST /tickets")]
    Unknown,
    /// The node that issued the ticket does not answer.
    #[error("{node} issued the ticket and cannot be reached; get a new one with POST /tickets")]
    Unavailable {
        /// The node.
        node: NodeId,
    },
    /// Too many tickets are waiting.
    #[error("too many tickets wait to be redeemed; redeem them, or retry after 30 seconds")]
    TooMany,
}

/// Redeems tickets at the nodes that issued them.
pub trait TicketPeers: Send + Sync + 'static {
    /// Redeems a ticket at the node that issued it. The future has its own deadline.
    fn redeem(&self, ticket: Ticket) -> BoxFuture<'static, Result<Caller, InvalidTicket>>;
}

/// The cluster of a node that knows no others.
pub struct NoPeers;

/// The tickets of one node. Clones share them.
#[derive(Clone)]
pub struct Tickets(Arc<TicketsInner>);

struct TicketsInner {
    me: NodeId,
    peers: Arc<dyn TicketPeers>,
    issued: Mutex<IssuedTickets>,
}

/// A ticket that is to be issued.
#[derive(Clone, Copy)]
pub struct NewTicket<'a> {
    /// The caller that asks for it.
    pub caller: &'a Caller,
    /// The topics that it can read and publish to; all that the caller can, when `None`. None may have a `*` in
    /// its name.
    pub topics: Option<&'a [Topic]>,
    /// The caller to whose limit it counts.
    pub payer: CallerKey,
    /// The random id and secret.
    pub random: (u64, [u8; 32]),
}

impl Tickets {
    /// An empty store for the tickets of node `me`.
    pub fn new(me: NodeId, peers: Arc<dyn TicketPeers>) -> Tickets {
        Tickets(Arc::new(TicketsInner { me, peers, issued: Mutex::default() }))
    }

    /// Issues a ticket, and returns it with its time of expiry.
    ///
    /// # Errors
    /// [`InvalidTicket::TooMany`] when too many tickets wait to be redeemed.
    pub fn issue(
        &self,
        new: NewTicket<'_>,
        now: Timestamp,
    ) -> Result<(Ticket, Timestamp), InvalidTicket> {
        let NewTicket { caller, topics, payer, random: (id, secret) } = new;
        let caller = restrict(caller, topics);
        let bytes = memory_bytes(&caller);
        let mut issued = self.issued();
        issued.remove_expired(now);
        if !issued.has_room(&payer, bytes) {
            TICKETS.register_counter(&["rejected"]).increment(1);
            return Err(InvalidTicket::TooMany);
        }
        let secret_hash = Sha256::digest(secret).into();
        issued.insert(id, IssuedTicket { secret_hash, issued_at: now, payer, bytes, caller });
        TICKETS.register_counter(&["issued"]).increment(1);
        let expires_at = Timestamp(now.0.saturating_add(LIFETIME_MS));
        Ok((Ticket { node: self.0.me, id, secret }, expires_at))
    }

    /// Redeems a ticket here, or at the node that issued it.
    pub(crate) async fn redeem(
        &self,
        ticket: &Ticket,
        now: Timestamp,
    ) -> Result<Caller, InvalidTicket> {
        if ticket.node == self.0.me {
            return self.redeem_own(ticket, now);
        }
        self.0.peers.redeem(ticket.clone()).await
    }

    /// Redeems a ticket that this node issued, once.
    ///
    /// # Errors
    /// [`InvalidTicket::Unknown`] when there is no such ticket, or no more.
    pub fn redeem_own(&self, ticket: &Ticket, now: Timestamp) -> Result<Caller, InvalidTicket> {
        let mut issued = self.issued();
        let hash = Sha256::digest(ticket.secret);
        // The id is no secret. A wrong secret must not use the ticket up.
        let is_valid = issued.get(ticket.id).is_some_and(|known| {
            known.is_valid(now) && bool::from(known.secret_hash.ct_eq(hash.as_slice()))
        });
        let redeemed = if is_valid { issued.remove(ticket.id) } else { None };
        let result = if redeemed.is_some() { "redeemed" } else { "unknown" };
        TICKETS.register_counter(&[result]).increment(1);
        redeemed.map(|ticket| ticket.caller).ok_or(InvalidTicket::Unknown)
    }

    fn issued(&self) -> MutexGuard<'_, IssuedTickets> {
        self.0.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory that a ticket of this caller takes, roughly.
fn memory_bytes(caller: &Caller) -> usize {
    let Grants { subscribe, publish, admin: _ } = caller.grants();
    let lists = [&subscribe.allow, &subscribe.deny, &publish.allow, &publish.deny];
    let pattern_bytes = |pattern: &TopicPattern| PATTERN_BYTES + pattern.as_str().len();
    TICKET_BYTES + lists.into_iter().flatten().map(pattern_bytes).sum::<usize>()
}

/// The caller of a ticket: without the admin grant, and only for `topics`.
fn restrict(caller: &Caller, topics: Option<&[Topic]>) -> Caller {
    let Some(token) = caller.token() else { return caller.clone() };
    let restricted = |set: &PatternSet| match topics {
        None => set.clone(),
        Some(topics) => set.restricted_to(topics),
    };
    let grants = Grants {
        subscribe: restricted(&token.grants.subscribe),
        publish: restricted(&token.grants.publish),
        admin: None,
    };
    Caller::with_token(VerifiedToken { grants, ..token.clone() })
}

impl Ticket {
    /// The node that issued the ticket.
    pub fn node(&self) -> NodeId {
        self.node
    }
}

/// `NODE.ID.SECRET` in hexadecimal digits.
impl FromStr for Ticket {
    type Err = InvalidTicket;

    fn from_str(text: &str) -> Result<Ticket, InvalidTicket> {
        let malformed = |_| InvalidTicket::Malformed;
        let (node, rest) = text.split_once('.').ok_or(InvalidTicket::Malformed)?;
        let (id, secret) = rest.split_once('.').ok_or(InvalidTicket::Malformed)?;
        let node = NodeId(u64::from_str_radix(node, 16).map_err(|_| InvalidTicket::Malformed)?);
        let id = u64::from_str_radix(id, 16).map_err(|_| InvalidTicket::Malformed)?;
        let secret = hex::decode(secret).map_err(malformed)?;
        let secret = secret.try_into().map_err(|_| InvalidTicket::Malformed)?;
        Ok(Ticket { node, id, secret })
    }
}

impl Ticket {
    /// The text of the ticket, to send. It must not reach a log line or an error.
    pub fn secret_text(&self) -> String {
        format!("{:x}.{:016x}.{}", self.node.0, self.id, hex::encode(self.secret))
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("node", &self.node).finish_non_exhaustive()
    }
}

impl TicketPeers for NoPeers {
    fn redeem(&self, ticket: Ticket) -> BoxFuture<'static, Result<Caller, InvalidTicket>> {
        Box::pin(std::future::ready(Err(InvalidTicket::Unavailable { node: ticket.node })))
    }
}

#[cfg(test)]
#[path = "tickets/tickets_test.rs"]
mod tickets_test;
