//! How sockets become listeners and streams.

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use super::descriptor::{Object, ObjectId, Readiness};
use super::host::ProcessId;
use super::tcp::{Listener, Stream};
use super::timer::Timer;
use super::{DescriptorError, HostId, Kernel, StreamError};

/// The delay before a request for a connection is sent again; it doubles each time.
const CONNECT_RETRY_NS: u64 = 1_000_000_000;

/// Requests for a connection to a host that does not answer.
const CONNECT_ATTEMPTS: u32 = 6;

impl Kernel {
    /// A new socket.
    pub(crate) fn create_socket(&mut self, process: ProcessId, is_datagram: bool) -> i32 {
        let socket = Object::Socket { process, local: None, is_datagram, watchers: Vec::new() };
        let socket = self.insert(socket);
        self.open(socket)
    }

    /// Gives a socket an address. Port 0 is a free one.
    pub(crate) fn bind(
        &mut self,
        descriptor: i32,
        mut address: SocketAddrV4,
    ) -> Result<(), DescriptorError> {
        let id = self.object_of(descriptor)?;
        let host = self.object(id)?.process().host;
        if address.port() == 0 {
            address.set_port(self.next_port(host));
        }
        match self.object(id)? {
            Object::Socket { local, .. } => *local = Some(address),
            _ => return Err(DescriptorError::Invalid),
        }
        Ok(())
    }

    fn next_port(&mut self, host: HostId) -> u16 {
        let host = self.host_mut(host);
        host.next_port = host.next_port.checked_add(1).unwrap_or(32_768);
        host.next_port
    }

    /// Lets a bound socket accept connections.
    pub(crate) fn listen(&mut self, descriptor: i32) -> Result<(), DescriptorError> {
        let id = self.object_of(descriptor)?;
        let object = self.object(id)?;
        let Object::Socket { process, local: Some(local), watchers, .. } = object else {
            return Err(DescriptorError::Invalid);
        };
        let (process, local, watchers) = (*process, *local, std::mem::take(watchers));
        *object = Object::Listener(Listener { process, local, backlog: VecDeque::new(), watchers });
        Ok(())
    }

    /// The next connection of a listener, and the address of its client.
    pub(crate) fn accept(
        &mut self,
        descriptor: i32,
    ) -> Result<(i32, SocketAddrV4), DescriptorError> {
        let id = self.object_of(descriptor)?;
        let Object::Listener(listener) = self.object(id)? else {
            return Err(DescriptorError::Invalid);
        };
        let stream = listener.backlog.pop_front().ok_or(DescriptorError::WouldBlock)?;
        let remote = self.stream(stream)?.remote;
        Ok((self.open(stream), remote))
    }

    /// Begins to connect a socket.
    pub(crate) fn connect(
        &mut self,
        descriptor: i32,
        remote: SocketAddrV4,
    ) -> Result<(), DescriptorError> {
        let id = self.object_of(descriptor)?;
        let Object::Socket { process, local, is_datagram, watchers } = self.object(id)? else {
            return Err(DescriptorError::Invalid);
        };
        let (process, local, is_datagram) = (*process, *local, *is_datagram);
        if is_datagram {
            return Ok(());
        }
        let watchers = std::mem::take(watchers);
        let address = self.host(process.host).address;
        let port = self.next_port(process.host);
        let local = local.unwrap_or(SocketAddrV4::new(address, port));
        let mut stream = Stream::new(process, local, remote);
        stream.watchers = watchers;
        self.objects.insert(id, Object::Stream(Box::new(stream)));
        let at = match self.host_at(*remote.ip()) {
            Some(to) => self.arrival(process.host, to, 0),
            None => self.now,
        };
        self.timers.set(at, Timer::Connect(id));
        Ok(())
    }

    pub(super) fn on_connect(&mut self, id: ObjectId) {
        let Ok(stream) = self.stream(id) else { return };
        if stream.is_closed || stream.has_failed || stream.peer.is_some() {
            return;
        }
        let (from, local, remote) = (stream.process.host, stream.local, stream.remote);
        let Some(to) = self.host_at(*remote.ip()) else {
            return self.fail(id, StreamError::Refused);
        };
        if !self.delivers(from, to) || !self.delivers(to, from) {
            return self.connect_again(id);
        }
        let answer_at = self.arrival(to, from, 0);
        let Some((listener, process)) = self.listener_at(to, remote) else {
            if let Ok(stream) = self.stream(id) {
                stream.error = Some(StreamError::Refused);
            }
            return self.timers.set(answer_at, Timer::Reset(id));
        };
        let mut accepted = Stream::new(process, remote, local);
        accepted.peer = Some(id);
        accepted.is_connected = true;
        accepted.last_arrival = answer_at + 1;
        let accepted = self.insert(Object::Stream(Box::new(accepted)));
        if let Ok(Object::Listener(listener)) = self.object(listener) {
            listener.backlog.push_back(accepted);
        }
        if let Ok(stream) = self.stream(id) {
            stream.peer = Some(accepted);
        }
        self.notify(listener, Readiness::READABLE);
        self.timers.set(answer_at, Timer::Connected(id));
    }

    fn connect_again(&mut self, id: ObjectId) {
        let now = self.now;
        let Ok(stream) = self.stream(id) else { return };
        stream.attempts += 1;
        if stream.attempts >= CONNECT_ATTEMPTS {
            return self.fail(id, StreamError::TimedOut);
        }
        let delay = CONNECT_RETRY_NS << (stream.attempts - 1);
        self.timers.set(now + delay, Timer::Connect(id));
    }

    /// A listener of a running process at an address. Several share the connections.
    fn listener_at(
        &mut self,
        host: HostId,
        address: SocketAddrV4,
    ) -> Option<(ObjectId, ProcessId)> {
        let listeners: Vec<_> = self
            .objects
            .iter()
            .filter_map(|(&id, object)| match object {
                Object::Listener(listener)
                    if listener.process.host == host && listener.accepts(address) =>
                {
                    Some((id, listener.process))
                }
                _ => None,
            })
            .collect();
        let chosen = self.random.below(listeners.len() as u64) as usize;
        listeners.get(chosen).copied()
    }

    pub(super) fn on_connected(&mut self, id: ObjectId) {
        let Ok(stream) = self.stream(id) else { return };
        if stream.has_failed {
            return;
        }
        stream.is_connected = true;
        stream.attempts = 0;
        self.notify(id, Readiness::WRITABLE);
    }
}
