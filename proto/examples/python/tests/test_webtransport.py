"""WebTransport with aioquic, a client that was not written for this server."""

import asyncio
import unittest

from nodes import PATIENCE, Testbed
from webtransport import session


class WebTransportTest(unittest.TestCase):
    def setUp(self):
        self.testbed = Testbed()
        self.addCleanup(self.testbed.close)

    def test_subscription_receives_what_the_session_publishes(self):
        node = self.testbed.node()

        async def run():
            async with session(f"http://{node.http}") as opened:
                opened.send({"id": 1, "subscribe": {"topic": "a/b", "from": "start"}})
                for number in range(20):
                    opened.send({"id": 2 + number, "publish": {"topic": "a/b", "data": {"n": number, "text": "x" * 3_000}}})
                published, received = [], []
                while len(published) < 20 or len(received) < 20:
                    frame = await opened.frames.get()
                    if "published" in frame:
                        published.append(frame["id"])
                    if "message" in frame:
                        received.append(frame["message"]["data"]["n"])
                self.assertEqual(published, list(range(2, 22)))
                self.assertEqual(received, list(range(20)))

        asyncio.run(asyncio.wait_for(run(), PATIENCE))

    def test_other_paths_are_refused_with_a_status(self):
        node = self.testbed.node()

        async def run():
            import webtransport

            path, webtransport.PATH = webtransport.PATH, b"/other"
            try:
                async with session(f"http://{node.http}"):
                    self.fail("a session was opened")
            finally:
                webtransport.PATH = path

        with self.assertRaisesRegex(ConnectionError, "status 404"):
            asyncio.run(asyncio.wait_for(run(), PATIENCE))
