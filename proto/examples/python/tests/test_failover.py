"""One node of three is killed while every kind of publisher works: nothing is lost, stored twice or out of order."""

import asyncio
import json
import threading
import unittest

import outbox
from async_publisher import AsyncPublisher
from connection import Cluster
from nodes import PATIENCE, Testbed, history
from outcome import Acknowledged
from publisher import Publisher
from relay import Relay
from stream_publisher import StreamPublisher

COUNT = 90


class Failover(unittest.TestCase):
    def setUp(self):
        self.testbed = Testbed()
        self.addCleanup(self.testbed.close)

    def test_publishers_continue_at_another_node_when_theirs_is_killed(self):
        nodes = self.testbed.cluster()
        cluster = Cluster([node.server for node in nodes])
        stop, path = threading.Event(), str(self.testbed.directory / "outbox.db")
        relay = threading.Thread(target=run_relay, args=(path, cluster, stop))
        relay.start()
        try:
            with self.assertLogs(level="WARNING"):
                asyncio.run(self.publish_all(cluster, path, nodes[0].kill))
            others = Cluster(cluster.servers[1:])
            for topic in ("async", "stream", "outbox"):
                numbers = [json.loads(message.payload) for message in history(others, topic, COUNT)]
                self.assertEqual(numbers, list(range(COUNT)), topic)
        finally:
            stop.set()
            relay.join(PATIENCE)

    async def publish_all(self, cluster: Cluster, path: str, kill):
        database = outbox.connect(path)
        async with (
            asyncio.timeout(PATIENCE),
            AsyncPublisher(cluster, PATIENCE) as publisher,
            StreamPublisher(cluster, "stream") as stream,
        ):
            outcomes = []
            for number in range(COUNT):
                if number == COUNT // 3:
                    kill()
                with outbox.transaction(database):
                    outbox.save(database, "outbox", number)
                outcomes.append(await stream.send(b"%d" % number))
                # One after the other, since only then they have an order.
                outcome = await publisher.publish("async", b"%d" % number, key=f"key-{number}")
                self.assertIsInstance(outcome, Acknowledged)
            await stream.flush()
        database.close()
        self.assertEqual({type(outcome.result()) for outcome in outcomes}, {Acknowledged})


def run_relay(path: str, cluster: Cluster, stop: threading.Event):
    database = outbox.connect(path)
    with Publisher(cluster, PATIENCE) as publisher:
        Relay(database, publisher).run(stop)
    database.close()
