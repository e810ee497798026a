//! Descriptors and the objects that they refer to.

use std::net::SocketAddrV4;

use super::Kernel;
use super::epoll::Epoll;
use super::host::ProcessId;
use super::tcp::{Listener, Stream};

/// An object of the kernel. Ids are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectId(pub(super) u64);

/// The first descriptor of the simulation in each process: those of the system are below.
pub const DESCRIPTOR_MIN: i32 = 1 << 12;

/// Why a call with a descriptor failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorError {
    /// The descriptor is closed, or of another kind.
    Invalid,
    /// Nothing to read, or no room to write.
    WouldBlock,
    /// An error of the connection.
    Stream(super::StreamError),
    /// Another listener has the address.
    AddressInUse,
}

/// What can be done with an object without waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// It has something to read, or the stream ended.
    pub readable: bool,
    /// It has room to write.
    pub writable: bool,
    /// The other end will send nothing more.
    pub read_closed: bool,
    /// Nothing can be sent or received any more.
    pub hung_up: bool,
    /// It has an error.
    pub failed: bool,
}

impl Readiness {
    pub(super) const READABLE: Readiness = Readiness {
        readable: true,
        writable: false,
        read_closed: false,
        hung_up: false,
        failed: false,
    };
    pub(super) const WRITABLE: Readiness =
        Readiness { writable: true, readable: false, ..Readiness::READABLE };
}

pub(super) enum Object {
    Epoll(Epoll),
    Event {
        counter: u64,
        process: ProcessId,
        watchers: Watchers,
    },
    /// A socket that is neither connected nor listening.
    Socket {
        process: ProcessId,
        local: Option<SocketAddrV4>,
        is_datagram: bool,
        watchers: Watchers,
    },
    Listener(Listener),
    Stream(Box<Stream>),
}

/// The epolls that watch an object, with the descriptor under which each knows it.
pub(super) type Watchers = Vec<(ObjectId, i32)>;

impl Object {
    pub(super) fn process(&self) -> ProcessId {
        match self {
            Object::Epoll(epoll) => epoll.process,
            Object::Event { process, .. } | Object::Socket { process, .. } => *process,
            Object::Listener(listener) => listener.process,
            Object::Stream(stream) => stream.process,
        }
    }

    pub(super) fn watchers(&mut self) -> &mut Watchers {
        match self {
            Object::Epoll(epoll) => &mut epoll.watchers,
            Object::Event { watchers, .. } | Object::Socket { watchers, .. } => watchers,
            Object::Listener(listener) => &mut listener.watchers,
            Object::Stream(stream) => &mut stream.watchers,
        }
    }

    pub(super) fn readiness(&self) -> Readiness {
        match self {
            Object::Epoll(epoll) => epoll.readiness(),
            Object::Event { counter, .. } => {
                Readiness { readable: *counter > 0, ..Readiness::WRITABLE }
            }
            Object::Socket { is_datagram: true, .. } => Readiness::WRITABLE,
            Object::Socket { .. } => Readiness { hung_up: true, ..Readiness::WRITABLE },
            Object::Listener(listener) => {
                Readiness { readable: !listener.backlog.is_empty(), ..Readiness::default() }
            }
            Object::Stream(stream) => stream.readiness(),
        }
    }
}

impl Kernel {
    pub(super) fn insert(&mut self, object: Object) -> ObjectId {
        self.next_object += 1;
        let id = ObjectId(self.next_object);
        self.objects.insert(id, object);
        id
    }

    /// The lowest free descriptor of the process that runs, for an object.
    pub(super) fn open(&mut self, object: ObjectId) -> i32 {
        let table = self.descriptors();
        let index = table.iter().position(Option::is_none).unwrap_or(table.len());
        match table.get_mut(index) {
            Some(free) => *free = Some(object),
            None => table.push(Some(object)),
        }
        DESCRIPTOR_MIN + index as i32
    }

    /// The descriptors of the process that runs.
    fn descriptors(&mut self) -> &mut Vec<Option<ObjectId>> {
        let host = self.running_process().host;
        &mut self.host_mut(host).descriptors
    }

    /// The object of a descriptor of the process that runs.
    pub(super) fn object_of(&self, descriptor: i32) -> Result<ObjectId, DescriptorError> {
        let table = &self.host(self.running_process().host).descriptors;
        let index = usize::try_from(descriptor - DESCRIPTOR_MIN).unwrap_or(usize::MAX);
        table.get(index).copied().flatten().ok_or(DescriptorError::Invalid)
    }

    pub(super) fn object(&mut self, id: ObjectId) -> Result<&mut Object, DescriptorError> {
        self.objects.get_mut(&id).ok_or(DescriptorError::Invalid)
    }

    /// A second descriptor of the same object.
    pub(crate) fn duplicate(&mut self, descriptor: i32) -> Result<i32, DescriptorError> {
        let object = self.object_of(descriptor)?;
        Ok(self.open(object))
    }

    /// Closes a descriptor, and the object with its last one.
    pub(crate) fn close(&mut self, descriptor: i32) -> Result<(), DescriptorError> {
        let object = self.object_of(descriptor)?;
        let table = self.descriptors();
        table[(descriptor - DESCRIPTOR_MIN) as usize] = None;
        if !table.contains(&Some(object)) {
            self.close_object(object);
        }
        Ok(())
    }

    /// Closes everything that a process has open.
    pub(super) fn close_all(&mut self, process: ProcessId) {
        let of_process: Vec<_> = self
            .objects
            .iter()
            .filter(|(_, object)| object.process() == process)
            .map(|(&id, _)| id)
            .collect();
        self.host_mut(process.host).descriptors.clear();
        of_process.into_iter().for_each(|object| self.close_object(object));
    }

    fn close_object(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        for (epoll, descriptor) in std::mem::take(object.watchers()) {
            if let Some(Object::Epoll(epoll)) = self.objects.get_mut(&epoll) {
                epoll.remove(descriptor);
            }
        }
        match self.objects.get(&id) {
            Some(Object::Stream(_)) => self.close_stream(id),
            Some(Object::Listener(_)) => self.close_listener(id),
            _ => {
                self.objects.remove(&id);
            }
        }
    }

    /// A counter that can be waited for, as `eventfd`.
    pub(crate) fn create_event(&mut self, process: ProcessId, counter: u64) -> i32 {
        let event = self.insert(Object::Event { counter, process, watchers: Vec::new() });
        self.open(event)
    }

    /// Takes the value of a counter; `None` when the descriptor is no counter.
    pub(crate) fn read_event(&mut self, descriptor: i32) -> Option<Result<u64, DescriptorError>> {
        let id = self.object_of(descriptor).ok()?;
        let Ok(Object::Event { counter, .. }) = self.object(id) else { return None };
        match std::mem::take(counter) {
            0 => Some(Err(DescriptorError::WouldBlock)),
            value => Some(Ok(value)),
        }
    }

    /// Adds to a counter; false when the descriptor is no counter.
    pub(crate) fn write_event(&mut self, descriptor: i32, value: u64) -> bool {
        let Ok(id) = self.object_of(descriptor) else { return false };
        let Ok(Object::Event { counter, .. }) = self.object(id) else { return false };
        *counter = counter.saturating_add(value);
        self.notify(id, Readiness::READABLE);
        true
    }

    /// What can be done with a descriptor now.
    pub(crate) fn readiness(&mut self, descriptor: i32) -> Result<Readiness, DescriptorError> {
        let id = self.object_of(descriptor)?;
        Ok(self.object(id)?.readiness())
    }
}
