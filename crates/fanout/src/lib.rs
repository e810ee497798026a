//! One to many: between the link that brings a message to this node and the sockets that take it.
//!
//! *What is it?* The [`Hub`] keeps one ring of the newest messages for each topic that somebody on
//! this node watches, with their ready-made frames. A [`Lane`] is one thread's share of the
//! sessions; a subscription is a cursor into a ring, nothing more. A [`TopicReader`] is the same cursor
//! for a back end that asks for messages instead of frames.
//!
//! *What does it promise?* A subscriber meets each message of its topic once and in order, from the
//! place it asked for, and where messages are missing it meets a gap that names them instead. One
//! that wants the newest alone, or so many a second, is never shown an older one after it. A frame
//! is made once per message and [`WireFormat`], however many take it. A subscriber that asked for deltas
//! gets one only of a message whose predecessor it was sent right before. When upstream has lost
//! touch with a topic's owner, every subscriber that is level is told so, and told when it is over.
//! Who watches is counted as it comes and goes, at no cost but an addition, and a subscriber that
//! asks is told how many do in the whole cluster. A subscriber that does not keep up costs no
//! memory and delays nobody.
//!
//! *What does it refuse?* Wire formats (the [`FrameEncoder`] port makes the frames), sockets (the
//! [`FrameSink`] port takes them), the cluster (the [`Upstream`] port brings the messages), and queues
//! per session.
//!
//! *How does data move?* [`Hub::deliver`] pushes a message onto its topic's ring and wakes each
//! lane that has subscribers: one entry in the lane's queue, however many messages and subscribers.
//! The lane's [`LaneDriver`] walks the subscribers and offers each what lies after its cursor; where
//! several topics have news in one turn, a session that watches several is offered all of it at the
//! turn's end, at once, so that a hundred topics cost it one write. A subscriber that is blocked is
//! marked and passed over until [`Lane::on_writable`]; a cursor moves by what was taken, so nothing of
//! what was not is kept. What is older than the ring is fetched from upstream, once for all who
//! ask, and joins the ring at its old end. Whatever is read as history, from the ring or from a page, is
//! cut to what the topic's namespace allows ([`Retention`]).
//!
//! *What must a caller not do?* Call [`Hub::mark_live_at`], [`Hub::deliver`], [`Hub::record_gap`], [`Hub::mark_stale`]
//! and [`Hub::mark_live`] of one topic from two threads at once; call back into the hub from within an
//! [`Upstream`], or into the lane from within an [`FrameSink`]; make a hub before the process has its
//! metrics recorder, for the hub's meters would count into nothing.

mod audience;
mod delivery_mode;
mod dirty_topics;
mod frames;
pub mod hub;
mod lane;
mod metrics;
#[cfg(feature = "planted-bugs")]
mod planted;
mod ports;
mod registry;
mod retention;
mod ring;
mod sink;
mod start_position;
mod topic_buffer;
mod topic_reader;

pub use hub::Hub;
pub use lane::{Lane, LaneDriver, SessionKey, SubscribeError};
pub use metrics::METRICS;
pub use ports::{FrameEncoder, SubscribeAck, TopicHealth, Upstream, WireFormat};
pub use retention::Retention;
pub use sink::{FrameRun, FrameSink, OfferOutcome, SinkClosed};
pub use topic_reader::TopicReader;
