//! The one function that decides whether a caller may do something.

use std::fmt;

use pushonce_core::{Namespaces, Topic};

use crate::grants::PatternMatch;
use crate::{AdminAccess, Caller, TopicPattern};

/// Everything that a request can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Receive new messages of a topic.
    Subscribe(&'a Topic),
    /// Read the history of a topic, also to resume a subscription.
    ReadHistory(&'a Topic),
    /// Read the newest message of a topic.
    ReadSnapshot(&'a Topic),
    /// Read the number of subscribers of a topic.
    ReadAudience(&'a Topic),
    /// Publish to a topic.
    Publish(&'a Topic, PublishDoor),
    /// See owner, history and subscriber count of a topic.
    DescribeTopic(&'a Topic),
    /// List the topics whose names begin with a text, or all topics.
    ListTopics(Option<&'a str>),
    /// See the members, namespaces and health of the cluster.
    ReadCluster,
    /// Change members, namespaces, times, versions or revocations of the cluster.
    ChangeCluster,
    /// Read the metrics of the node.
    ReadMetrics,
}

/// The interface through which a message is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishDoor {
    /// WebSocket, QUIC and HTTP.
    Client,
    /// gRPC.
    Backend,
}

/// Why an action is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission<'a> {
    /// No issuer is configured.
    Unrestricted,
    /// The namespace may be read without a token.
    AnonymousRead,
    /// A pattern of the token.
    Pattern(&'a TopicPattern),
    /// The admin grant of the token.
    Admin(AdminAccess),
}

/// Why an action is refused. Each text says what to change; none has anything secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The caller sent no token, and the action needs one.
    #[error("{action} needs a token; send one that grants it")]
    TokenRequired {
        /// The action, with its object.
        action: String,
    },
    /// No pattern of the token matches.
    #[error("the token does not grant {action}; use a token with a matching pattern in `{grant}`")]
    NoPattern {
        /// The action, with its object.
        action: String,
        /// The claim that would grant it.
        grant: &'static str,
    },
    /// A pattern of the token forbids it.
    #[error("the token denies {action} by the pattern {pattern}")]
    DeniedByPattern {
        /// The action, with its object.
        action: String,
        /// The pattern.
        pattern: TopicPattern,
    },
    /// The token has no admin grant, or a lower one.
    #[error("{action} needs a token with the grant `admin`: {:?}", .required.as_str())]
    AdminRequired {
        /// The action, with its object.
        action: String,
        /// The lowest grant that suffices.
        required: AdminAccess,
    },
    /// The namespace accepts messages over gRPC only.
    #[error(
        "clients cannot publish in the namespace {namespace}: publish over gRPC, or set \
         `client-publish` of the namespace"
    )]
    ClientPublishDisabled {
        /// The namespace.
        namespace: String,
    },
}

/// Decides whether `caller` may do `action` now.
///
/// # Errors
/// [`Denied`] with the reason.
pub fn authorize(
    caller: &Caller,
    action: Action<'_>,
    namespaces: &Namespaces,
) -> Result<(), Denied> {
    decide(caller, action, namespaces).map(drop)
}

/// Like [`authorize`], with the reason for which the action is allowed.
///
/// # Errors
/// [`Denied`] with the reason.
pub fn decide<'a>(
    caller: &'a Caller,
    action: Action<'_>,
    namespaces: &Namespaces,
) -> Result<Permission<'a>, Denied> {
    let permission = by_grants(caller, action, namespaces)?;
    // A property of the namespace, not of the caller: it also holds where no issuer is configured. After the grants,
    // so that only a caller that may publish learns it.
    if let Action::Publish(topic, PublishDoor::Client) = action
        && !namespaces.for_topic(topic).access.client_publish
    {
        let namespace = topic.namespace().to_owned();
        return Err(Denied::ClientPublishDisabled { namespace });
    }
    Ok(permission)
}

fn by_grants<'a>(
    caller: &'a Caller,
    action: Action<'_>,
    namespaces: &Namespaces,
) -> Result<Permission<'a>, Denied> {
    if caller.is_unrestricted() {
        return Ok(Permission::Unrestricted);
    }
    let grants = caller.grants();
    match action {
        Action::Subscribe(topic)
        | Action::ReadHistory(topic)
        | Action::ReadSnapshot(topic)
        | Action::ReadAudience(topic) => {
            let is_public = namespaces.for_topic(topic).access.anonymous_read;
            match grants.subscribe.find(topic) {
                PatternMatch::None if is_public => Ok(Permission::AnonymousRead),
                found => by_pattern(caller, action, found),
            }
        }
        Action::Publish(topic, _) => by_pattern(caller, action, grants.publish.find(topic)),
        Action::DescribeTopic(topic) => {
            by_admin_or_pattern(caller, action, grants.subscribe.find(topic))
        }
        Action::ListTopics(prefix) => {
            let found = grants.subscribe.find_prefix(prefix.unwrap_or_default());
            by_admin_or_pattern(caller, action, found)
        }
        Action::ReadCluster | Action::ReadMetrics => by_admin(caller, action, AdminAccess::Read),
        Action::ChangeCluster => by_admin(caller, action, AdminAccess::Write),
    }
}

/// Operators see the names and numbers of every topic, never its messages.
fn by_admin_or_pattern<'a>(
    caller: &'a Caller,
    action: Action<'_>,
    found: PatternMatch<'a>,
) -> Result<Permission<'a>, Denied> {
    by_admin(caller, action, AdminAccess::Read).or_else(|_| by_pattern(caller, action, found))
}

fn by_admin<'a>(
    caller: &Caller,
    action: Action<'_>,
    required: AdminAccess,
) -> Result<Permission<'a>, Denied> {
    match caller.grants().admin {
        Some(access) if access >= required => Ok(Permission::Admin(access)),
        _ if caller.is_anonymous() => Err(Denied::TokenRequired { action: action.to_string() }),
        _ => Err(Denied::AdminRequired { action: action.to_string(), required }),
    }
}

fn by_pattern<'a>(
    caller: &Caller,
    action: Action<'_>,
    found: PatternMatch<'a>,
) -> Result<Permission<'a>, Denied> {
    let action_text = || action.to_string();
    match found {
        PatternMatch::Allowed(pattern) => Ok(Permission::Pattern(pattern)),
        PatternMatch::Denied(pattern) => {
            Err(Denied::DeniedByPattern { action: action_text(), pattern: pattern.clone() })
        }
        PatternMatch::None if caller.is_anonymous() => {
            Err(Denied::TokenRequired { action: action_text() })
        }
        PatternMatch::None => {
            let grant = match action {
                Action::Publish(..) => "publish",
                _ => "subscribe",
            };
            Err(Denied::NoPattern { action: action_text(), grant })
        }
    }
}

impl Denied {
    /// Whether the caller sent no token: HTTP then answers 401 instead of 403.
    pub fn is_token_required(&self) -> bool {
        matches!(self, Denied::TokenRequired { .. })
    }
}

impl Action<'_> {
    /// The name of the action in log lines, metrics and on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Subscribe(_) => "subscribe",
            Action::ReadHistory(_) => "read-history",
            Action::ReadSnapshot(_) => "read-snapshot",
            Action::ReadAudience(_) => "read-audience",
            Action::Publish(..) => "publish",
            Action::DescribeTopic(_) => "describe-topic",
            Action::ListTopics(_) => "list-topics",
            Action::ReadCluster => "read-cluster",
            Action::ChangeCluster => "change-cluster",
            Action::ReadMetrics => "read-metrics",
        }
    }
}

/// The action with its object, as in `subscribe on chat/7`.
impl fmt::Display for Action<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Action::Subscribe(topic)
            | Action::ReadHistory(topic)
            | Action::ReadSnapshot(topic)
            | Action::ReadAudience(topic)
            | Action::Publish(topic, _)
            | Action::DescribeTopic(topic) => write!(f, " on {topic}"),
            Action::ListTopics(Some(prefix)) => write!(f, " on {prefix:?}"),
            Action::ListTopics(None)
            | Action::ReadCluster
            | Action::ChangeCluster
            | Action::ReadMetrics => Ok(()),
        }
    }
}

impl fmt::Display for Permission<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Permission::Unrestricted => f.write_str("no issuer is configured"),
            Permission::AnonymousRead => f.write_str("the namespace may be read without a token"),
            Permission::Pattern(pattern) => write!(f, "the pattern {pattern}"),
            Permission::Admin(access) => write!(f, "the grant `admin`: {:?}", access.as_str()),
        }
    }
}

#[cfg(test)]
mod authorize_test;
