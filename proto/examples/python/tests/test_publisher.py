"""The three outcomes of a publish, sync and asyncio, against a real node and against servers that fail."""

import asyncio
import socket
import unittest
from contextlib import contextmanager

from async_publisher import AsyncPublisher
from connection import Cluster
from nodes import PATIENCE, Testbed, free_ports, history, wait_until
from outcome import Acknowledged, Rejected, Unknown
from publisher import Publisher


@contextmanager
def silent_server():
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def closed_server() -> str:
    """An address where nothing listens."""
    return f"127.0.0.1:{free_ports(1)[0]}"


def publish_sync(cluster: Cluster, *message, deadline: float = PATIENCE, **options):
    with Publisher(cluster, deadline) as publisher:
        return publisher.publish(*message, **options)


def publish_async(cluster: Cluster, *message, deadline: float = PATIENCE, **options):
    async def run():
        async with AsyncPublisher(cluster, deadline) as publisher:
            return await publisher.publish(*message, **options)

    return asyncio.run(run())


class Outcomes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        testbed = Testbed()
        cls.addClassCleanup(testbed.close)
        cls.server = testbed.node().server
        cls.cluster = Cluster([cls.server])

    def each(self):
        """Both publishers, each with a topic of its own."""
        return [(publish, f"{self._testMethodName}/{publish.__name__}") for publish in (publish_sync, publish_async)]

    def test_stored_message_is_acknowledged_with_its_position(self):
        for publish, topic in self.each():
            outcome = publish(self.cluster, topic, b"2:1", content_type="text/csv")
            self.assertIsInstance(outcome, Acknowledged)
            [message] = history(self.cluster, topic, 1)
            self.assertEqual((message.position, message.payload), (outcome.position, b"2:1"))
            self.assertEqual((message.content_type, outcome.durability), ("text/csv", "DURABILITY_REPLICATED"))

    def test_repeated_key_gets_the_first_position_and_is_stored_once(self):
        for publish, topic in self.each():
            first = publish(self.cluster, topic, b"1", key="order-1")
            second = publish(self.cluster, topic, b"1", key="order-1")
            self.assertEqual(first, second)
            self.assertEqual(len(history(self.cluster, topic, 1)), 1)

    def test_messages_that_break_a_rule_are_rejected_with_a_code_word(self):
        for publish, topic in self.each():
            self.assertIsInstance(publish(self.cluster, topic, b"1", key="order-1"), Acknowledged)
            for reason, arguments, options in (
                ("bad_topic", ("a//b", b"1"), {}),
                ("too_large", (topic, b"1" * 70_000), {}),
                ("key_reused", (topic, b"2"), {"key": "order-1"}),
            ):
                outcome = publish(self.cluster, *arguments, **options)
                self.assertIsInstance(outcome, Rejected)
                self.assertEqual((outcome.reason, outcome.retry), (reason, False))

    def test_next_server_is_used_when_one_is_closed_or_silent(self):
        for publish, topic in self.each():
            with silent_server() as silent:
                cluster = Cluster([closed_server(), silent, self.server])
                self.assertIsInstance(publish(cluster, topic, b"1"), Acknowledged)
            self.assertEqual(len(history(self.cluster, topic, 1)), 1)

    def test_outcome_is_unknown_when_no_server_answers_before_the_deadline(self):
        for publish, topic in self.each():
            with silent_server() as silent:
                self.assertIsInstance(publish(Cluster([silent]), topic, b"1", deadline=0.5), Unknown)
            self.assertIsInstance(publish(Cluster([closed_server()]), topic, b"1", deadline=0.5), Unknown)

    def test_outcome_stays_unknown_when_a_later_attempt_is_rejected(self):
        for publish, _ in self.each():
            cluster = Cluster([closed_server(), self.server])
            self.assertIsInstance(publish(cluster, "a//b", b"1"), Unknown)

    def test_tasks_share_one_async_publisher(self):
        async def run():
            async with AsyncPublisher(self.cluster, PATIENCE) as publisher:
                return await asyncio.gather(*(publisher.publish("shared", b"%d" % n) for n in range(100)))

        outcomes = asyncio.run(run())
        self.assertEqual({type(outcome) for outcome in outcomes}, {Acknowledged})
        messages = history(self.cluster, "shared", 100)
        self.assertEqual(sorted(int(message.payload) for message in messages), list(range(100)))


class Access(unittest.TestCase):
    """A node with TLS and issuers."""

    @classmethod
    def setUpClass(cls):
        testbed = Testbed()
        cls.addClassCleanup(testbed.close)
        path = testbed.directory
        testbed.command("ca", "init", "--dir", f"{path}/ca", "--host", "127.0.0.1")
        issuers = testbed.command("token", "key", f"{path}/key.pem").stdout
        (path / "issuers.toml").write_text(issuers)
        certificate = f"{path}/ca/127.0.0.1"
        cls.server = testbed.node(
            *("--issuers", f"{path}/issuers.toml", "--token-grace", "0s", "--https", f"127.0.0.1:{free_ports(1)[0]}"),
            *("--tls-cert", f"{certificate}/node.crt", "--tls-key", f"{certificate}/node.key"),
        ).server
        cls.roots = (path / "ca/ca.crt").read_bytes()
        cls.mint = lambda *flags: testbed.command("token", "mint", "--key", f"{path}/key.pem", *flags).stdout.strip()

    def test_token_that_allows_the_topic_publishes_over_tls(self):
        token = type(self).mint("--publish", "chat/*", "--subscribe", "chat/*")
        cluster = Cluster([self.server], token=lambda: token, roots=self.roots)
        for publish in (publish_sync, publish_async):
            self.assertIsInstance(publish(cluster, "chat/1", b"1"), Acknowledged)
        self.assertEqual(len(history(cluster, "chat/1", 2)), 2)

    def test_missing_token_and_missing_grant_are_rejected(self):
        token = type(self).mint("--publish", "chat/*")
        for source, topic, reason in (
            (None, "chat/7", "not_authenticated"),
            (lambda: token, "news/7", "not_allowed"),
        ):
            cluster = Cluster([self.server], token=source, roots=self.roots)
            for publish in (publish_sync, publish_async):
                outcome = publish(cluster, topic, b"1")
                self.assertIsInstance(outcome, Rejected)
                self.assertEqual(outcome.reason, reason)

    def test_expired_token_is_replaced_at_the_next_attempt(self):
        expired = type(self).mint("--publish", "chat/*", "--expires-in", "1s")
        valid = type(self).mint("--publish", "chat/*")
        for publish in (publish_sync, publish_async):
            asked = []

            def token() -> str:
                asked.append(None)
                return expired if len(asked) == 1 else valid

            def is_replaced() -> bool:
                asked.clear()
                cluster = Cluster([self.server], token=token, roots=self.roots)
                self.assertIsInstance(publish(cluster, "chat/7", b"1"), Acknowledged)
                return len(asked) == 2

            wait_until("the first token has expired", is_replaced)

    def test_unknown_authority_is_not_trusted(self):
        cluster = Cluster([self.server], roots=b"")
        self.assertIsInstance(publish_sync(cluster, "chat/7", b"1", deadline=2.0), Unknown)
