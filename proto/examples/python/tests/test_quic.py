"""Raw QUIC with aioquic, a client that was not written for this server."""

import asyncio
import unittest

from nodes import PATIENCE, Testbed
from pushonce.client.v1 import client_pb2 as pb
from quic import session


class QuicTest(unittest.TestCase):
    def setUp(self):
        self.testbed = Testbed()
        self.addCleanup(self.testbed.close)

    def run_session(self, act):
        node = self.testbed.node()

        async def run():
            async with session(f"http://{node.http}") as opened:
                await act(opened)

        asyncio.run(asyncio.wait_for(run(), PATIENCE))

    def test_subscription_receives_what_the_session_publishes(self):
        async def act(opened):
            start = pb.StartFrom(start=True)
            opened.send(pb.ClientFrame(id=1, subscribe=pb.Subscribe(topic="a/b", start_from=start)))
            payloads = [f"{number} {'x' * 3_000}".encode() for number in range(20)]
            for number, payload in enumerate(payloads):
                publish = pb.Publish(topic="a/b", data=payload, content_type="text/plain")
                opened.send(pb.ClientFrame(id=2 + number, publish=publish))
            published, received = [], []
            while len(published) < 20 or len(received) < 20:
                frame = await opened.frames.get()
                if frame.HasField("published"):
                    published.append(frame.id)
                if frame.HasField("message"):
                    received.append(frame.message.data)
            self.assertEqual(published, list(range(2, 22)))
            self.assertEqual(received, payloads)

        self.run_session(act)

    def test_newest_messages_come_as_datagrams(self):
        async def act(opened):
            subscribe = pb.Subscribe(topic="a/clock", delivery="latest", datagrams=True)
            opened.send(pb.ClientFrame(id=1, subscribe=subscribe))
            # One after another, so that none replaces another.
            for number in range(10):
                publish = pb.Publish(topic="a/clock", data=str(number).encode(), content_type="text/plain")
                opened.send(pb.ClientFrame(id=2 + number, publish=publish))
                while not (frame := await opened.frames.get()).HasField("message"):
                    pass
                self.assertEqual(frame.message.data, str(number).encode())
            # The first comes on the stream.
            self.assertGreaterEqual(opened.datagrams, 5)

        self.run_session(act)

    def test_malformed_frame_ends_the_session_with_its_code_word(self):
        async def act(opened):
            opened._quic.send_stream_data(0, b"\x03\xff\xff\xff")
            opened.transmit()
            frame = await opened.frames.get()
            self.assertEqual(frame.error.code, "bad_frame")
            self.assertIsNone(await opened.frames.get())

        self.run_session(act)
