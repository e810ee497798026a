//! Hostile clients, and the well-behaved ones beside them that must not notice.

mod bystanders;
mod footprint;
mod stranger;

pub use bystanders::Bystanders;
pub use footprint::Footprint;
pub use stranger::{
    HEALTH_REQUEST, HTTP2_PREFACE, STRANGER, Stranger, WEBSOCKET_HANDSHAKE, http2_frame,
    masked_frame,
};
