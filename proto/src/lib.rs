//! The versioned wire contracts of Pushonce, and the conversion between wire types and domain types.
//!
//! # Overview
//!
//! The crate holds the generated code of the `.proto` files beside it ([`pb`]), the client protocol as
//! domain types with its two encodings ([`client`]), the framing of a QUIC stream ([`delimited`]), the
//! table of close codes ([`close`]), the error details of gRPC statuses ([`error_details`]), and the domain
//! types of the three gRPC contracts: [`publisher`], [`cluster`] and [`peer`].
//!
//! ```
//! use bytes::Bytes;
//! use pushonce_proto::client::{ClientCommand, Encoding};
//!
//! let frame = Bytes::from_static(br#"{"id":1,"unsubscribe":{"topic":"chat/7"}}"#);
//! let request = Encoding::Json.decode_request(&frame).expect("a valid frame");
//! assert_eq!(request.id, Some(1));
//! assert!(matches!(request.command, ClientCommand::Unsubscribe { .. }));
//! ```
//!
//! # Guarantees
//!
//! - A value is converted once, at the edge of a process.
//! - A decoding error names the invalid field and what to change.
//! - Decoding arbitrary bytes does not panic.
//! - An enum value that the sender did not set is an error or absent, never a promise.
//! - The `.proto` files pass the standard rules of `buf lint`; a test checks it.
//!
//! # Non-goals
//!
//! The crate has no engines, no sockets and no clocks.
//!
//! # Data flow
//!
//! Bytes are decoded to wire types and then to domain types. Encoding is the reverse.
//!
//! # Caller contract
//!
//! Convert a wire type to its domain type where it is received, and pass only the domain type on.

// Every byte that this crate reads comes from outside.
#![cfg_attr(
    not(test),
    warn(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)
)]

#[cfg(test)]
mod arbitrary;
pub mod client;
pub mod close;
pub mod cluster;
pub mod delimited;
pub mod error_details;
mod field;
#[cfg(test)]
mod fuzz;
pub mod peer;
pub mod publisher;
pub mod status;
mod times;

pub use field::InvalidField;

/// Code generated from the `.proto` files. The test `generated` holds it equal to them, and writes it anew.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod pb {
    pub mod publisher {
        pub mod v1 {
            include!("generated/pushonce.publisher.v1.rs");
        }
    }
    pub mod cluster {
        pub mod v1 {
            include!("generated/pushonce.cluster.v1.rs");
        }
    }
    pub mod client {
        pub mod v1 {
            include!("generated/pushonce.client.v1.rs");
        }
    }
    pub mod peer {
        pub mod v1 {
            include!("generated/pushonce.peer.v1.rs");
        }
    }

    /// The descriptors of the publisher and operator services, for the reflection service.
    pub const DESCRIPTORS: &[u8] = include_bytes!("generated/public.bin");
}
