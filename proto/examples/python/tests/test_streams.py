"""Ordered streams and subscriptions over connections that break."""

import asyncio
import math
import socket
import threading
import unittest

from connection import Cluster
from nodes import PATIENCE, Testbed, history
from outcome import Acknowledged, Rejected
from pushonce.publisher.v1 import publisher_pb2 as pb
from publisher import Publisher
from stream_publisher import StreamPublisher
from subscriber import Subscriber


class BreakingProxy:
    """Forwards to a server, and breaks every connection after so many bytes from the server."""

    def __init__(self, server: str, bytes_max: int):
        host, port = server.split(":")
        self._server, self._bytes_max = (host, int(port)), bytes_max
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.broken = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        shut(self._listener)
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket):
        with client, socket.create_connection(self._server) as server:
            requests = threading.Thread(target=copy, args=(client, server), daemon=True)
            requests.start()
            if not copy(server, client, self._bytes_max):
                self.broken += 1
            shut(client)
            shut(server)
            requests.join()


def copy(source: socket.socket, sink: socket.socket, bytes_max: float = math.inf) -> bool:
    """Copies until a connection ends, or until so many bytes: returns False then."""
    try:
        while data := source.recv(4096):
            sink.sendall(data)
            bytes_max -= len(data)
            if bytes_max <= 0:
                return False
    except OSError:
        # One of the ends has closed.
        pass
    return True


def shut(end: socket.socket):
    """Ends both directions of a connection, also for a thread that waits for it."""
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        # Not connected any longer.
        pass


class Streams(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        testbed = Testbed()
        cls.addClassCleanup(testbed.close)
        cls.server = testbed.node().server
        cls.cluster = Cluster([cls.server])

    def proxy(self, bytes_max: int) -> BreakingProxy:
        proxy = BreakingProxy(self.server, bytes_max)
        self.addCleanup(proxy.close)
        return proxy

    def send_all(self, cluster: Cluster, topic: str, payloads: list[bytes]) -> list:
        async def run():
            async with asyncio.timeout(PATIENCE), StreamPublisher(cluster, topic) as stream:
                outcomes = [await stream.send(payload) for payload in payloads]
                await stream.flush()
                return [outcome.result() for outcome in outcomes]

        return asyncio.run(run())

    def test_stream_stores_every_message_once_and_in_order_over_broken_connections(self):
        payloads = [b"%d" % number for number in range(5_000)]
        proxy = self.proxy(20_000)
        with self.assertLogs(level="WARNING"):
            outcomes = self.send_all(Cluster([proxy.address]), "stream", payloads)
        self.assertGreater(proxy.broken, 3)
        self.assertEqual({type(outcome) for outcome in outcomes}, {Acknowledged})
        offsets = [int(outcome.position.split(":")[1]) for outcome in outcomes]
        self.assertEqual(offsets, list(range(1, 5_001)))

    def test_rejected_message_does_not_stop_those_behind_it(self):
        payloads = [b"1", b"x" * 70_000, b"2", b"3"]
        with self.assertLogs(level="WARNING"):
            outcomes = self.send_all(self.cluster, "rejected", payloads)
        self.assertEqual(
            [type(outcome) for outcome in outcomes], [Acknowledged, Rejected, Acknowledged, Acknowledged]
        )
        self.assertEqual(outcomes[1].reason, "too_large")
        stored = [message.payload for message in history(self.cluster, "rejected", 3)]
        self.assertEqual(stored, [b"1", b"2", b"3"])

    def test_subscriber_receives_every_message_once_over_broken_connections(self):
        proxy = self.proxy(1_000)
        subscriber = Subscriber(Cluster([proxy.address]), "subscribed", pb.StartFrom(start=True))
        events = subscriber.events()
        with Publisher(self.cluster, PATIENCE) as publisher:
            for number in range(100):
                self.assertIsInstance(publisher.publish("subscribed", b"%d" % number), Acknowledged)
                self.assertEqual(next(events).payload, b"%d" % number)
        self.assertGreater(proxy.broken, 3)

    def test_subscriber_continues_from_a_stored_position(self):
        with Publisher(self.cluster, PATIENCE) as publisher:
            positions = [publisher.publish("stored", b"%d" % number).position for number in range(3)]
        subscriber = Subscriber(self.cluster, "stored", pb.StartFrom(position=positions[0]))
        received = [event.position for _, event in zip(range(2), subscriber.events())]
        self.assertEqual(received, positions[1:])
        self.assertEqual(subscriber.start_from.position, positions[2])
