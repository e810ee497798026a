//! The contract: what goes over every wire, by version, and the one place where wire becomes domain.
//!
//! *What is it?* The generated code of the `.proto` files beside this crate ([`pb`]), the client
//! protocol as domain types with its two encodings ([`client`]), the framing that QUIC needs
//! ([`delimited`]), the table of close codes ([`close`]), and the domain side of the three gRPC
//! contracts: [`publisher`], [`cluster`] and [`peer`].
//!
//! *What does it promise?* Conversion happens once, at the edge of a process; an error names the
//! field that was wrong and what to change.
//!
//! *What does it refuse?* Engines, sockets and clocks.
//!
//! *How does data move?* Bytes to wire types to domain types, and back.
//!
//! *What must a caller not do?* Carry a wire type past the door it came in by.

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
