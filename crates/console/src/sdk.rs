//! The modules of the JavaScript SDK, as the pages import them.

use crate::asset::Asset;

macro_rules! modules {
    ($($name:literal)*) => {
        [$(Asset::js(concat!("/sdk/", $name), include_str!(concat!("../../client/js/src/", $name)))),*]
    };
}

/// Every module of `crates/client/js/src`. Pages import `/sdk/index.js`, which loads the others.
pub(crate) const MODULES: [Asset; 27] = modules! {
    "backoff.js" "client.js" "close-codes.js" "credentials.js" "cursor.js" "delta.js" "errors.js" "events.js"
    "fallback.js" "http-connection.js" "http-error.js" "index.js" "long-poll.js" "memory.js" "outbox.js"
    "page.js" "payload.js" "position.js" "resume-state.js" "servers.js" "session.js" "snapshot.js" "sse.js"
    "subscription.js" "urls.js" "websocket.js" "webtransport.js"
};
