//! Consensus, ready for use: many Raft groups of one node on one log, one writer and one stream to
//! each peer. The only crate that names openraft.

mod adapter;
mod engine;
mod group;
mod log;
mod machine;
mod members;
mod network;
mod observer;
mod settings;
mod status;
mod store;
mod types;

pub use engine::{DestroyError, Engine, OpenError, StartError};
pub use group::{Group, GroupId, InitializeError, ProposeError};
pub use machine::{At, Damaged, Machine};
pub use members::ChangeError;
pub use network::{AddressBook, Service};
pub use settings::{InvalidSettings, Settings, Warning};
pub use status::Status;
