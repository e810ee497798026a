"""Subscribes to a topic over raw QUIC with aioquic, and publishes to it: protobuf frames on QUIC streams, without HTTP.

    python quic.py http://127.0.0.1:7080 chat/7 'goal!'

The messages of `pushonce/client/v1/client.proto` are generated with grpcio-tools, as those of the publishers are.
"""

import asyncio
import json
import ssl
import sys
import urllib.request
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, DatagramFrameReceived, QuicEvent, StreamDataReceived
from cryptography.hazmat.primitives.hashes import SHA256
from pushonce.client.v1 import client_pb2 as pb

from webtransport import split_frame, varint

ALPN = "pushonce/1"


class Session(QuicConnectionProtocol):
    """One connection. Frames of all its streams and datagrams are in `frames`, `None` when it has ended."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.frames: asyncio.Queue[pb.ServerFrame | None] = asyncio.Queue()
        self.datagrams = 0
        self._received: dict[int, bytes] = {}
        # The first stream of the client is the control stream.
        self._control = self._quic.get_next_available_stream_id()

    def send(self, frame: pb.ClientFrame):
        """Sends a frame on the control stream."""
        content = frame.SerializeToString()
        self._quic.send_stream_data(self._control, varint(len(content)) + content)
        self.transmit()

    def quic_event_received(self, event: QuicEvent):
        match event:
            case ConnectionTerminated():
                self.frames.put_nowait(None)
            case DatagramFrameReceived(data=data):
                self.datagrams += 1
                self.frames.put_nowait(pb.ServerFrame.FromString(data))
            case StreamDataReceived(data=data, stream_id=stream):
                received = self._received.get(stream, b"") + data
                while (split := split_frame(received)) is not None:
                    frame, received = split
                    self.frames.put_nowait(pb.ServerFrame.FromString(frame))
                self._received[stream] = received


@asynccontextmanager
async def session(url: str):
    """A session with the node whose HTTP port without TLS is at `url`."""
    with urllib.request.urlopen(f"{url}/dev/certificate") as response:
        certificate = json.load(response)
    # No authority signed the certificate: it is compared with the hash.
    configuration = QuicConfiguration(alpn_protocols=[ALPN], verify_mode=ssl.CERT_NONE, max_datagram_frame_size=65536)
    host, port = urlsplit(url).hostname, certificate["port"]
    async with connect(host, port, configuration=configuration, create_protocol=Session) as opened:
        peer = opened._quic.tls._peer_certificate
        if peer.fingerprint(SHA256()).hex() != certificate["sha256"]:
            raise ConnectionError("the certificate is not that of the node")
        yield opened


async def main(url: str, topic: str, text: str):
    async with session(url) as opened:
        opened.send(pb.ClientFrame(id=1, subscribe=pb.Subscribe(topic=topic)))
        opened.send(pb.ClientFrame(id=2, publish=pb.Publish(topic=topic, data=text.encode(), content_type="text/plain")))
        while (frame := await opened.frames.get()) is not None:
            print(frame, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
