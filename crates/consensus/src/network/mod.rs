//! One gRPC stream to each peer carries the requests of all groups.

mod book;
mod dial;
mod fence;
mod greeting;
mod link;
mod marks;
mod peer;
mod receive;
mod service;
pub(crate) mod wire;

pub use book::AddressBook;
pub use fence::rolled_back_in;
pub use service::Service;

pub(crate) use dial::{Links, LinksParts};
pub(crate) use fence::Fence;
pub(crate) use link::LinkError;
pub(crate) use marks::Marks;
pub(crate) use peer::Dialer;
pub(crate) use receive::Incoming;
pub(crate) use service::Groups;
pub(crate) use wire::{FRAME_BYTES_MAX, Kind, Proposed};
