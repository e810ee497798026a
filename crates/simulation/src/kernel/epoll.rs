//! Waiting for events of many descriptors.

use std::collections::{BTreeMap, VecDeque};

use super::descriptor::{Object, ObjectId, Readiness, Watchers};
use super::host::ProcessId;
use super::scheduler::ThreadId;
use super::{DescriptorError, Kernel};

/// The events that a descriptor is watched for.
#[derive(Clone, Copy, Debug)]
pub struct Interest {
    /// Something to read.
    pub readable: bool,
    /// Room to write.
    pub writable: bool,
    /// An event is reported once, when it begins.
    pub edge_triggered: bool,
    /// Returned with each event.
    pub data: u64,
}

/// An event of a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct EpollEvent {
    /// What can be done with the descriptor.
    pub readiness: Readiness,
    /// From its [`Interest`].
    pub data: u64,
}

pub(super) struct Epoll {
    pub(super) process: ProcessId,
    watched: BTreeMap<i32, Watched>,
    ready: VecDeque<i32>,
    waiter: Option<ThreadId>,
    /// An epoll can be watched like any descriptor.
    pub(super) watchers: Watchers,
}

struct Watched {
    object: ObjectId,
    interest: Interest,
    is_ready: bool,
}

impl Epoll {
    /// Stops watching a descriptor.
    pub(super) fn remove(&mut self, descriptor: i32) -> Option<ObjectId> {
        self.ready.retain(|&ready| ready != descriptor);
        self.watched.remove(&descriptor).map(|watched| watched.object)
    }

    /// Queues an event.
    fn queue(&mut self, descriptor: i32) {
        if let Some(watched) = self.watched.get_mut(&descriptor)
            && !std::mem::replace(&mut watched.is_ready, true)
        {
            self.ready.push_back(descriptor);
        }
    }

    pub(super) fn readiness(&self) -> Readiness {
        Readiness { readable: !self.ready.is_empty(), ..Readiness::default() }
    }
}

impl Interest {
    /// What of `readiness` is reported. Errors are reported always.
    fn filter(&self, readiness: Readiness) -> Option<Readiness> {
        let reported = Readiness {
            readable: readiness.readable && self.readable,
            writable: readiness.writable && self.writable,
            read_closed: readiness.read_closed && self.readable,
            ..readiness
        };
        (reported != Readiness::default()).then_some(reported)
    }
}

impl Kernel {
    /// A new epoll.
    pub(crate) fn create_epoll(&mut self, process: ProcessId) -> i32 {
        let (watched, ready) = (BTreeMap::new(), VecDeque::new());
        let epoll = Epoll { process, watched, ready, waiter: None, watchers: Vec::new() };
        let epoll = self.insert(Object::Epoll(epoll));
        self.open(epoll)
    }

    fn epoll(&mut self, id: ObjectId) -> Result<&mut Epoll, DescriptorError> {
        match self.object(id)? {
            Object::Epoll(epoll) => Ok(epoll),
            _ => Err(DescriptorError::Invalid),
        }
    }

    /// Watches a descriptor, or changes the events for which it is watched.
    pub(crate) fn watch(
        &mut self,
        epoll: i32,
        descriptor: i32,
        interest: Interest,
    ) -> Result<(), DescriptorError> {
        let (epoll_id, object) = (self.object_of(epoll)?, self.object_of(descriptor)?);
        let watchers = self.object(object)?.watchers();
        if !watchers.contains(&(epoll_id, descriptor)) {
            watchers.push((epoll_id, descriptor));
        }
        let readiness = self.object(object)?.readiness();
        let entry = self.epoll(epoll_id)?;
        let is_ready = entry.watched.get(&descriptor).is_some_and(|watched| watched.is_ready);
        entry.watched.insert(descriptor, Watched { object, interest, is_ready });
        if interest.filter(readiness).is_some() {
            entry.queue(descriptor);
            self.notify_epoll(epoll_id);
        }
        Ok(())
    }

    /// Stops watching a descriptor.
    pub(crate) fn unwatch(&mut self, epoll: i32, descriptor: i32) -> Result<(), DescriptorError> {
        let epoll_id = self.object_of(epoll)?;
        let object = self.epoll(epoll_id)?.remove(descriptor).ok_or(DescriptorError::Invalid)?;
        if let Ok(object) = self.object(object) {
            object.watchers().retain(|&watcher| watcher != (epoll_id, descriptor));
        }
        Ok(())
    }

    /// Takes pending events. Without any, `waiter` is woken by the next one.
    pub(crate) fn take_events(
        &mut self,
        epoll: i32,
        waiter: ThreadId,
        max: usize,
    ) -> Result<Vec<EpollEvent>, DescriptorError> {
        let id = self.object_of(epoll)?;
        let mut events = Vec::new();
        let mut again = Vec::new();
        while events.len() < max {
            let epoll = self.epoll(id)?;
            let Some(descriptor) = epoll.ready.pop_front() else { break };
            let Some(watched) = epoll.watched.get_mut(&descriptor) else { continue };
            watched.is_ready = false;
            let (object, interest) = (watched.object, watched.interest);
            let Ok(object) = self.object(object) else { continue };
            if let Some(readiness) = interest.filter(object.readiness()) {
                events.push(EpollEvent { readiness, data: interest.data });
                if !interest.edge_triggered {
                    again.push(descriptor);
                }
            }
        }
        let epoll = self.epoll(id)?;
        again.into_iter().for_each(|descriptor| epoll.queue(descriptor));
        epoll.waiter = events.is_empty().then_some(waiter);
        Ok(events)
    }

    /// Reports an event of an object to the epolls that watch it.
    pub(super) fn notify(&mut self, object: ObjectId, event: Readiness) {
        let Some(entry) = self.objects.get_mut(&object) else { return };
        for (epoll_id, descriptor) in entry.watchers().clone() {
            let Ok(epoll) = self.epoll(epoll_id) else { continue };
            let watched = epoll.watched.get(&descriptor);
            if watched.is_some_and(|watched| watched.interest.filter(event).is_some()) {
                epoll.queue(descriptor);
                self.notify_epoll(epoll_id);
            }
        }
    }

    /// Wakes the thread that waits for an epoll, and reports to the epolls that watch it.
    fn notify_epoll(&mut self, id: ObjectId) {
        if let Ok(epoll) = self.epoll(id)
            && let Some(waiter) = epoll.waiter.take()
        {
            self.wake(waiter);
        }
        self.notify(id, Readiness::READABLE);
    }
}
