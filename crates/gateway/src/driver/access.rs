//! The access of a session: its token, its rates, and the subscriptions that its grants allow.

use std::rc::Rc;

use futures::FutureExt as _;
use pushonce_auth::{AccessError, Action, Caller, PublishDoor, audit};
use pushonce_core::{AccessToken, Topic};
use pushonce_proto::client::{ClientCommand, ServerEvent};
use pushonce_proto::close;

use super::{SessionDriver, SessionTransport};
use crate::access_watch::AccessCheck;
use crate::lane::LaneState;
use crate::limits::RateExceeded;
use crate::rejection;
use crate::session::{self, AccessGate as _, SessionInput};

impl<T: SessionTransport> SessionDriver<T> {
    /// A publish that the session will refuse takes no part in the rates: their errors show the settings of the
    /// namespace.
    pub(super) fn check_rate(&self, command: &ClientCommand) -> Result<(), RateExceeded> {
        let LaneState { client_limits, access, .. } = &*self.lane;
        match command {
            ClientCommand::Publish(publish) if self.may_publish(&publish.topic) => {
                Ok(client_limits.check_publish(&publish.topic, self.caller_key(), access)?)
            }
            ClientCommand::Subscribe { .. } => {
                let now = std::time::Instant::now();
                Ok(client_limits.caller_rates.check_subscribe(self.caller_key(), now)?)
            }
            ClientCommand::Publish(_)
            | ClientCommand::Unsubscribe { .. }
            | ClientCommand::Authenticate { .. } => Ok(()),
        }
    }

    fn may_publish(&self, topic: &Topic) -> bool {
        let session = self.session.borrow();
        let action = Action::Publish(topic, PublishDoor::Client);
        self.lane.allows(session.caller(), action)
    }

    /// Makes the caller of the request that opened the session its caller.
    pub(crate) fn set_caller(self: &Rc<Self>, caller: Caller) {
        self.handle_input(SessionInput::Caller(caller));
    }

    /// Closes a session whose credential is not valid.
    pub(crate) fn refuse(self: &Rc<Self>, error: &AccessError) {
        self.record_refusal(error);
        self.reply(&ServerEvent::error(None, rejection::access_code(error), error));
        self.close(rejection::authentication_close(error), error.to_string());
    }

    /// Verifies a token. Mostly the keys are known, and the result is there at once.
    pub(super) fn authenticate(self: &Rc<Self>, token: AccessToken) {
        let (access, address) = (self.lane.access.clone(), self.address);
        let mut verification = Box::pin(async move { access.authenticate(&token, address).await });
        if let Some(result) = (&mut verification).now_or_never() {
            return self.handle_input(SessionInput::Authenticated(result));
        }
        let driver = self.clone();
        self.lane.spawn(async move {
            let result = verification.await;
            driver.handle_input(SessionInput::Authenticated(result));
            driver.transport.resume_receiving();
        });
    }

    /// Checks the session when the token of its caller expires.
    fn watch_token(&self, caller: &Caller) {
        let Some(until) = self.lane.access.valid_until(caller) else { return };
        let slot = self.slot.take();
        if let Some(slot) = &slot {
            self.lane.access_watch.set_token(slot.index(), until);
        }
        self.slot.set(slot);
    }

    /// Watches the new token, and ends the subscriptions that it does not grant.
    pub(super) fn on_caller_changed(&self, caller: &Caller) {
        self.watch_token(caller);
        self.end_refused_subscriptions(Some(caller));
    }

    /// Ends the subscriptions that the caller may not have any more. Returns how many the session had.
    pub(super) fn end_refused_subscriptions(&self, caller: Option<&Caller>) -> usize {
        let topics = self.lane.fanout.topics(self.key);
        let count = topics.len();
        for topic in topics {
            let Err(error) = self.lane.authorize(caller, Action::Subscribe(&topic)) else {
                continue;
            };
            self.record_refusal(&error);
            if let Some(token) = self.lane.fanout.unsubscribe(self.key, &topic) {
                self.transport.close_subscription(token);
            }
            self.reply(&ServerEvent::error(None, rejection::access_code(&error), &error));
            self.reply(&session::unsubscribe_reply(None, topic, true));
        }
        count
    }

    pub(super) fn record_refusal(&self, error: &AccessError) {
        let address = self.transport.remote_address().map(|address| address.ip());
        let session = self.session.borrow();
        let without_token;
        let caller = match session.caller() {
            Some(caller) => caller,
            None => {
                without_token = self.lane.access.without_token();
                &without_token
            }
        };
        audit::record_refusal(caller, address, error);
    }

    /// Closes the session if its token is expired or revoked, or if it has reached the maximum age.
    pub(super) fn end_without_access(self: &Rc<Self>, check: AccessCheck) {
        match check {
            AccessCheck::Token => {}
            AccessCheck::Age => {
                let reason = "the session reached the maximum age of sessions";
                self.send_goaway(0, 0, reason);
                return self.close(&close::SESSION_AGE, reason);
            }
        }
        let Some(caller) = self.session.borrow().caller().cloned() else { return };
        let Err(error) = self.lane.access.check_valid(&caller) else {
            // Not expired any more after all: the clock was set back.
            return self.watch_token(&caller);
        };
        let close = match error {
            AccessError::Expired => &close::TOKEN_EXPIRED,
            _ => &close::REVOKED,
        };
        self.record_refusal(&error);
        self.reply(&ServerEvent::error(None, rejection::access_code(&error), &error));
        self.close(close, error.to_string());
    }
}
