//! The wire contracts, by version, and the conversion between wire types and domain types.
//!
//! # Overview
//!
//! - [`pb`]: the generated code of the `.proto` files beside this crate;
//! - [`client`]: the client protocol as domain types, with its two encodings;
//! - [`delimited`]: the framing on QUIC; [`close`]: the table of close codes;
//! - [`publisher`], [`cluster`] and [`peer`]: the domain types of the three gRPC contracts;
//! - [`error_details`] and [`status`]: the code word and the text of a gRPC error.
//!
//! The `README.md` beside this crate specifies the protocols for people who write a client.
//!
//! # Guarantees
//!
//! - A decoding error names the field, what is wrong with it and what to change.
//! - An enum value that the sender did not set is an error or absent, never a promise.
//! - The `.proto` files pass the standard rules of `buf lint`; a test checks it.
//!
//! # Non-goals
//!
//! No engines, sockets or clocks.
//!
//! # Data flow
//!
//! Bytes to wire types to domain types, and back. Payloads are slices of the received buffer.
//!
//! # Caller contract
//!
//! Convert a wire type where it enters the process, and pass only domain types on.

#[cfg(test)]
mod arbitrary;
pub mod client;
pub mod close;
pub mod cluster;
pub mod delimited;
pub mod error_details;
mod field;
pub mod peer;
pub mod publisher;
pub mod status;
mod times;

pub use field::InvalidField;

/// Generated from the `.proto` files.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
pub mod pb {
    pub mod publisher {
        pub mod v1 {
            tonic::include_proto!("pushonce.publisher.v1");
        }
    }
    pub mod cluster {
        pub mod v1 {
            tonic::include_proto!("pushonce.cluster.v1");
        }
    }
    pub mod client {
        pub mod v1 {
            tonic::include_proto!("pushonce.client.v1");
        }
    }
    pub mod peer {
        pub mod v1 {
            tonic::include_proto!("pushonce.peer.v1");
        }
    }

    /// The services of publishers and operators as descriptors, for the reflection service.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));
}
