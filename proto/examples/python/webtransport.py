"""Subscribes to a topic over WebTransport with aioquic, and publishes to it.

    python webtransport.py http://127.0.0.1:7080 chat/7 '"goal!"'

The node without TLS names its QUIC port and the hash of its certificate, as `GET /dev/certificate` does for browsers. A
client of a node with a certificate of an authority needs neither.
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
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

PATH = b"/webtransport?protocol=pushonce.v1.json"


class Session(QuicConnectionProtocol):
    """One WebTransport session. Frames of all its streams are in `frames`, `None` when the connection has ended."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.frames: asyncio.Queue[dict | None] = asyncio.Queue()
        self._http = H3Connection(self._quic, enable_webtransport=True)
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._received: dict[int, bytes] = {}
        self._session: int | None = None
        self._control: int | None = None

    async def open(self, authority: str):
        """Requests the session, and opens its control stream."""
        self._session = self._quic.get_next_available_stream_id()
        headers = {
            b":method": b"CONNECT",
            b":scheme": b"https",
            b":authority": authority.encode(),
            b":path": PATH,
            b":protocol": b"webtransport",
        }
        self._http.send_headers(self._session, list(headers.items()))
        self.transmit()
        status = await self._status
        if status != 200:
            raise ConnectionError(f"the node refused the session with the status {status}")
        self._control = self._http.create_webtransport_stream(self._session)

    def send(self, frame: dict):
        """Sends a frame on the control stream."""
        content = json.dumps(frame).encode()
        self._quic.send_stream_data(self._control, varint(len(content)) + content)
        self.transmit()

    def quic_event_received(self, event: QuicEvent):
        if isinstance(event, ConnectionTerminated):
            self.frames.put_nowait(None)
        if isinstance(event, StreamDataReceived) and event.stream_id == self._control:
            # What arrives on a stream that the client opened, aioquic takes for frames of HTTP/3.
            self._on_data(event.stream_id, event.data)
            return
        for http_event in self._http.handle_event(event):
            match http_event:
                case HeadersReceived(headers=headers):
                    self._status.set_result(int(dict(headers)[b":status"]))
                case WebTransportStreamDataReceived(data=data, stream_id=stream):
                    self._on_data(stream, data)

    def _on_data(self, stream: int, data: bytes):
        received = self._received.get(stream, b"") + data
        while (split := split_frame(received)) is not None:
            frame, received = split
            self.frames.put_nowait(json.loads(frame))
        self._received[stream] = received


def varint(value: int) -> bytes:
    """A length, seven bits a byte, as in protobuf."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def split_frame(data: bytes) -> tuple[bytes, bytes] | None:
    """The first frame and the rest, when the frame is complete."""
    length = 0
    for index, byte in enumerate(data):
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            begin = index + 1
            end = begin + length
            return (data[begin:end], data[end:]) if len(data) >= end else None
    return None


@asynccontextmanager
async def session(url: str):
    """A session with the node whose HTTP port without TLS is at `url`."""
    with urllib.request.urlopen(f"{url}/dev/certificate") as response:
        certificate = json.load(response)
    host, port = urlsplit(url).hostname, certificate["port"]
    # No authority signed the certificate: it is compared with the hash.
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE, max_datagram_frame_size=65536)
    async with connect(host, port, configuration=configuration, create_protocol=Session) as opened:
        peer: x509.Certificate = opened._quic.tls._peer_certificate
        if peer.fingerprint(SHA256()).hex() != certificate["sha256"]:
            raise ConnectionError("the certificate is not that of the node")
        await opened.open(f"{host}:{port}")
        yield opened


async def main(url: str, topic: str, data: str):
    async with session(url) as opened:
        opened.send({"id": 1, "subscribe": {"topic": topic}})
        opened.send({"id": 2, "publish": {"topic": topic, "data": json.loads(data)}})
        while (frame := await opened.frames.get()) is not None:
            print(json.dumps(frame), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
