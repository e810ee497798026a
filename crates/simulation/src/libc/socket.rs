//! Sockets. Addresses are IPv4.

use std::ffi::c_void;
use std::net::{Ipv4Addr, SocketAddrV4};

use libc::{c_int, c_uint, msghdr, size_t, sockaddr, sockaddr_in, socklen_t, ssize_t};

use super::descriptor::{receive, send, send_pieces};
use super::real::real;
use super::{errno, fail, stream_errno};
use crate::kernel::{self, DESCRIPTOR_MIN, DescriptorError, current_thread};

#[unsafe(no_mangle)]
extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    let Some(thread) = current_thread() else {
        return real!(socket(domain => c_int, kind => c_int, protocol => c_int) -> c_int);
    };
    if domain != libc::AF_INET {
        return fail(libc::EAFNOSUPPORT);
    }
    let is_datagram = kind & 0xF == libc::SOCK_DGRAM;
    kernel::with(|kernel| kernel.create_socket(kernel.process_of(thread), is_datagram))
}

#[unsafe(no_mangle)]
extern "C" fn bind(descriptor: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
    if descriptor < DESCRIPTOR_MIN {
        return real!(bind(descriptor => c_int, address => *const sockaddr, length => socklen_t) -> c_int);
    }
    let address = read_address(address);
    status(kernel::with(|kernel| kernel.bind(descriptor, address)))
}

#[unsafe(no_mangle)]
extern "C" fn listen(descriptor: c_int, backlog: c_int) -> c_int {
    if descriptor < DESCRIPTOR_MIN {
        return real!(listen(descriptor => c_int, backlog => c_int) -> c_int);
    }
    status(kernel::with(|kernel| kernel.listen(descriptor)))
}

#[unsafe(no_mangle)]
extern "C" fn accept4(
    descriptor: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
    flags: c_int,
) -> c_int {
    if descriptor < DESCRIPTOR_MIN {
        return real!(accept4(descriptor => c_int, address => *mut sockaddr, length => *mut socklen_t,
            flags => c_int) -> c_int);
    }
    match kernel::with(|kernel| kernel.accept(descriptor)) {
        Ok((accepted, remote)) => {
            write_address(remote, address, length);
            accepted
        }
        Err(error) => fail(errno(error)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn connect(descriptor: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
    if descriptor < DESCRIPTOR_MIN {
        return real!(connect(descriptor => c_int, address => *const sockaddr, length => socklen_t) -> c_int);
    }
    let address = read_address(address);
    match kernel::with(|kernel| kernel.connect(descriptor, address)) {
        Ok(()) => fail(libc::EINPROGRESS),
        Err(error) => fail(errno(error)),
    }
}

#[unsafe(no_mangle)]
extern "C" fn shutdown(descriptor: c_int, how: c_int) -> c_int {
    if descriptor < DESCRIPTOR_MIN {
        return real!(shutdown(descriptor => c_int, how => c_int) -> c_int);
    }
    match how {
        libc::SHUT_RD => 0,
        _ => status(kernel::with(|kernel| kernel.shut_down_write(descriptor))),
    }
}

#[unsafe(no_mangle)]
extern "C" fn recv(descriptor: c_int, buffer: *mut c_void, bytes: size_t, flags: c_int) -> ssize_t {
    if descriptor < DESCRIPTOR_MIN {
        return real!(recv(descriptor => c_int, buffer => *mut c_void, bytes => size_t, flags => c_int) -> ssize_t);
    }
    receive(descriptor, buffer, bytes, flags & libc::MSG_PEEK != 0)
}

#[unsafe(export_name = "send")]
extern "C" fn send_bytes(
    descriptor: c_int,
    buffer: *const c_void,
    bytes: size_t,
    flags: c_int,
) -> ssize_t {
    if descriptor < DESCRIPTOR_MIN {
        return real!(send(descriptor => c_int, buffer => *const c_void, bytes => size_t, flags => c_int) -> ssize_t);
    }
    send(descriptor, buffer, bytes)
}

#[unsafe(no_mangle)]
extern "C" fn sendmsg(descriptor: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    if descriptor < DESCRIPTOR_MIN {
        return real!(sendmsg(descriptor => c_int, message => *const msghdr, flags => c_int) -> ssize_t);
    }
    // SAFETY: the caller passes a valid message.
    let message = unsafe { &*message };
    if !message.msg_name.is_null() {
        // A datagram: the simulated network loses all of them.
        return 0;
    }
    send_pieces(descriptor, message.msg_iov, message.msg_iovlen)
}

#[unsafe(no_mangle)]
extern "C" fn recvmsg(descriptor: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    if descriptor < DESCRIPTOR_MIN {
        return real!(recvmsg(descriptor => c_int, message => *mut msghdr, flags => c_int) -> ssize_t);
    }
    fail(libc::EAGAIN) as ssize_t
}

#[unsafe(no_mangle)]
extern "C" fn recvmmsg(
    descriptor: c_int,
    messages: *mut c_void,
    count: c_uint,
    flags: c_int,
    timeout: *mut libc::timespec,
) -> c_int {
    if descriptor < DESCRIPTOR_MIN {
        return real!(recvmmsg(descriptor => c_int, messages => *mut c_void, count => c_uint, flags => c_int,
            timeout => *mut libc::timespec) -> c_int);
    }
    fail(libc::EAGAIN)
}

#[unsafe(no_mangle)]
extern "C" fn getsockname(
    descriptor: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
) -> c_int {
    if descriptor < DESCRIPTOR_MIN {
        return real!(getsockname(descriptor => c_int, address => *mut sockaddr, length => *mut socklen_t) -> c_int);
    }
    write_end(descriptor, address, length, |(local, _)| Some(local))
}

#[unsafe(no_mangle)]
extern "C" fn getpeername(
    descriptor: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
) -> c_int {
    if descriptor < DESCRIPTOR_MIN {
        return real!(getpeername(descriptor => c_int, address => *mut sockaddr, length => *mut socklen_t) -> c_int);
    }
    write_end(descriptor, address, length, |(_, remote)| remote)
}

#[unsafe(no_mangle)]
extern "C" fn setsockopt(
    descriptor: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    length: socklen_t,
) -> c_int {
    if descriptor < DESCRIPTOR_MIN {
        return real!(setsockopt(descriptor => c_int, level => c_int, name => c_int, value => *const c_void,
            length => socklen_t) -> c_int);
    }
    // Options change how the system sends, not what arrives.
    0
}

#[unsafe(no_mangle)]
extern "C" fn getsockopt(
    descriptor: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    length: *mut socklen_t,
) -> c_int {
    if descriptor < DESCRIPTOR_MIN {
        return real!(getsockopt(descriptor => c_int, level => c_int, name => c_int, value => *mut c_void,
            length => *mut socklen_t) -> c_int);
    }
    let answer = match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ERROR) => {
            match kernel::with(|kernel| kernel.take_error(descriptor)) {
                Ok(error) => error.map_or(0, stream_errno),
                Err(error) => return fail(errno(error)),
            }
        }
        (libc::SOL_SOCKET, libc::SO_SNDBUF | libc::SO_RCVBUF) => 1 << 18,
        (libc::SOL_SOCKET, libc::SO_TYPE) => libc::SOCK_STREAM,
        _ => 0,
    };
    // SAFETY: these options are integers.
    unsafe {
        value.cast::<c_int>().write_unaligned(answer);
        *length = size_of::<c_int>() as socklen_t;
    }
    0
}

/// Writes the address of one end of a socket.
fn write_end(
    descriptor: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
    choose: impl FnOnce((SocketAddrV4, Option<SocketAddrV4>)) -> Option<SocketAddrV4>,
) -> c_int {
    match kernel::with(|kernel| kernel.addresses(descriptor)).map(choose) {
        Ok(Some(end)) => {
            write_address(end, address, length);
            0
        }
        Ok(None) => fail(libc::ENOTCONN),
        Err(error) => fail(errno(error)),
    }
}

fn status(outcome: Result<(), DescriptorError>) -> c_int {
    outcome.map_or_else(|error| fail(errno(error)), |()| 0)
}

fn read_address(address: *const sockaddr) -> SocketAddrV4 {
    // SAFETY: sockets of the simulation are IPv4, so their addresses are as well.
    let address = unsafe { &*address.cast::<sockaddr_in>() };
    let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
    SocketAddrV4::new(ip, u16::from_be(address.sin_port))
}

fn write_address(address: SocketAddrV4, to: *mut sockaddr, length: *mut socklen_t) {
    if to.is_null() {
        return;
    }
    // SAFETY: the caller passes room for an address of its family.
    unsafe {
        let to = &mut *to.cast::<sockaddr_in>();
        to.sin_family = libc::AF_INET as u16;
        to.sin_port = address.port().to_be();
        to.sin_addr.s_addr = u32::from(*address.ip()).to_be();
        *length = size_of::<sockaddr_in>() as socklen_t;
    }
}
