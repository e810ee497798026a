//! Outgoing packets that are sent together, in buffers that are reused.

use quinn_proto::Transmit;

/// Packets of one batch. Each has a buffer of one packet all the time; in a larger batch the system call
/// is a small part of the cost of its packets anyway.
const PACKETS_MAX: usize = 64;

pub(crate) struct SendBatch {
    buffers: Vec<Vec<u8>>,
    transmits: Vec<Transmit>,
    sent_count: usize,
}

impl SendBatch {
    pub(crate) fn new() -> SendBatch {
        // One more than packets: the buffer of a packet that finds no room.
        let buffers = (0..=PACKETS_MAX).map(|_| Vec::new()).collect();
        SendBatch { buffers, transmits: Vec::new(), sent_count: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.transmits.is_empty()
    }

    /// Whether [`SendBatch::enqueue`] keeps another packet.
    pub(crate) fn has_room(&self) -> bool {
        self.transmits.len() < PACKETS_MAX
    }

    /// An empty buffer for the next packet.
    pub(crate) fn next_buffer(&mut self) -> &mut Vec<u8> {
        let buffer = &mut self.buffers[self.transmits.len()];
        buffer.clear();
        buffer
    }

    /// Adds the packet in [`SendBatch::next_buffer`]. Without room the packet is lost, as any packet
    /// may be.
    pub(crate) fn enqueue(&mut self, transmit: Transmit) {
        if self.has_room() {
            self.transmits.push(transmit);
        }
    }

    /// The packets that are not sent yet, in order.
    pub(crate) fn unsent(&self) -> impl Iterator<Item = (&Transmit, &[u8])> {
        let packets = self.transmits.iter().zip(self.buffers.iter().map(Vec::as_slice));
        packets.skip(self.sent_count)
    }

    /// The first packets were sent, or given up. A batch that is all sent is empty again.
    pub(crate) fn on_sent(&mut self, count: usize) {
        self.sent_count += count;
        if self.sent_count >= self.transmits.len() {
            self.transmits.clear();
            self.sent_count = 0;
        }
    }
}
