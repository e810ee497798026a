//! A QUIC subscriber: the SDK's.

use anyhow::anyhow;
use pushonce_client::{Event, Subscriber, Transport};
use pushonce_core::From;

use super::Guest;
use super::audience::{Audience, Cursor};

/// Subscribes, and reads until the session ends; says why it did. A second session would begin with
/// a hole of its own, so there is none.
pub(super) async fn listen(guest: &Guest, audience: &Audience) -> anyhow::Error {
    let builder = Subscriber::builder(vec![guest.door.clone()]).transport(Transport::Quic);
    let mut subscriber = match builder.topic(guest.topic.clone(), From::Now).connect() {
        Ok(subscriber) => subscriber,
        Err(error) => return error.into(),
    };
    let mut cursor: Option<Cursor> = None;
    loop {
        let Some(event) = subscriber.next().await else { return anyhow!("the session ended") };
        match (event, &mut cursor) {
            (Event::Subscribed { .. }, None) => cursor = Some(audience.joined(guest.index)),
            (Event::Message { message, .. }, Some(cursor)) => {
                if let Some(stamp) = audience.clock.find(&message.payload) {
                    audience.read(cursor).message(stamp);
                }
            }
            (Event::Gap { gap, .. }, Some(cursor)) => audience.read(cursor).gap(&gap),
            (Event::Refused { message, .. }, _) => return anyhow!("refused: {message}"),
            (Event::Disconnected { why, .. }, _) => return anyhow!(why),
            _ => {}
        }
    }
}
