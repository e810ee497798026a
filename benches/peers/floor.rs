//! The bare write loop: a server that only writes, as the lower bound of a delivery's cost.
//!
//! One thread with one blocking `write` per reader and message, and no protocol except a length prefix. It is
//! measured like every other server, by the same generator in the same run.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::bail;

use crate::wire::FRAME_BYTES;

/// Accepts readers until a publisher connects, then writes each frame of the publisher to every reader of its
/// topic in turn; ends when the publisher disconnects.
pub(crate) fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)?;
    let mut readers: Vec<Vec<TcpStream>> = Vec::new();
    loop {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let mut opening = [0; 3];
        socket.read_exact(&mut opening)?;
        // An empty frame confirms the connection.
        socket.write_all(&[0, 0])?;
        let [role, high, low] = opening;
        let topic = usize::from(u16::from_be_bytes([high, low]));
        match role {
            b's' => {
                readers.resize_with(readers.len().max(topic + 1), Vec::new);
                readers[topic].push(socket);
            }
            b'p' => return write_to_readers(socket, readers),
            _ => bail!("unknown role {role:#04x} of a connection"),
        }
    }
}

fn write_to_readers(
    mut publisher: TcpStream,
    mut readers: Vec<Vec<TcpStream>>,
) -> anyhow::Result<()> {
    let mut frame = [0; FRAME_BYTES];
    loop {
        match publisher.read_exact(&mut frame) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let topic = u16::from_be_bytes([frame[FRAME_BYTES - 2], frame[FRAME_BYTES - 1]]);
        for reader in readers.get_mut(usize::from(topic)).into_iter().flatten() {
            reader.write_all(&frame)?;
        }
    }
}
