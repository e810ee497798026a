//! The server that does nothing but write: what a delivery costs at least, whoever makes it.
//!
//! One thread, one blocking `write` a reader and message; no protocol beside a length. It is measured
//! as every other server is, by the same generator in the same run.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::bail;

use crate::wire::FRAME_BYTES;

/// Takes readers until a publisher comes, then writes what that one sends to each reader of the topic
/// in turn; ends when it goes.
pub(crate) fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)?;
    let mut readers: Vec<Vec<TcpStream>> = Vec::new();
    loop {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let mut opening = [0; 3];
        socket.read_exact(&mut opening)?;
        // An empty frame: taken.
        socket.write_all(&[0, 0])?;
        let [role, high, low] = opening;
        let topic = usize::from(u16::from_be_bytes([high, low]));
        match role {
            b's' => {
                readers.resize_with(readers.len().max(topic + 1), Vec::new);
                readers[topic].push(socket);
            }
            b'p' => return write_to_readers(socket, readers),
            _ => bail!("a connection that is neither a reader's nor a publisher's"),
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
            Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let topic = u16::from_be_bytes([frame[FRAME_BYTES - 2], frame[FRAME_BYTES - 1]]);
        for reader in readers.get_mut(usize::from(topic)).into_iter().flatten() {
            reader.write_all(&frame)?;
        }
    }
}
