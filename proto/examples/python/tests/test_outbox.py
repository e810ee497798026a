"""Save, then publish once: nothing is lost or stored twice, wherever a process is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

import app
import outbox
from connection import Cluster
from nodes import PATIENCE, Testbed, history, read_all, wait_until

HERE = Path(__file__).parent


class Outbox(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.testbed = Testbed()
        cls.addClassCleanup(cls.testbed.close)
        cls.server = cls.testbed.node().server
        cls.cluster = Cluster([cls.server])

    def setUp(self):
        self.path = str(self.testbed.directory / f"{self._testMethodName}.db")
        self.database = outbox.connect(self.path)
        self.addCleanup(self.database.close)

    def start_relay(self) -> subprocess.Popen:
        with open(self.testbed.directory / "relay.log", "ab") as log:
            relay = subprocess.Popen([sys.executable, HERE.parent / "relay.py", self.path, self.server], stderr=log)
        self.addCleanup(relay.wait)
        self.addCleanup(relay.kill)
        return relay

    def wait_until_published(self):
        wait_until("every message is published", lambda: outbox.oldest(self.database) is None)

    def save_goal(self, topic: str, message: object):
        with outbox.transaction(self.database):
            outbox.save(self.database, topic, message)

    def crash(self, point: str):
        """Runs crash.py, which saves one message and is killed at the point."""
        arguments = [sys.executable, HERE / "crash.py", point, self.path, self.server]
        self.assertEqual(subprocess.run(arguments, timeout=PATIENCE).returncode, -signal.SIGKILL)

    def values(self, topic: str, count: int) -> list:
        return [json.loads(message.payload) for message in history(self.cluster, topic, count)]

    def goals(self) -> list[tuple]:
        return self.database.execute("SELECT score FROM goals").fetchall()

    def test_crash_before_the_commit_saves_and_publishes_nothing(self):
        self.crash("before the commit")
        self.assertEqual(self.goals(), [])
        self.assertIsNone(outbox.oldest(self.database))

    def test_crash_at_every_point_after_the_commit_stores_the_message_once(self):
        for point, is_stored, is_saved in (
            ("before the publish", False, True),
            ("between the publish and the delete", True, True),
            ("after the delete", True, False),
        ):
            self.crash(point)
            # The crash was where it should be.
            self.assertEqual(len(read_all(self.cluster, point)), int(is_stored), point)
            self.assertEqual(outbox.oldest(self.database) is not None, is_saved, point)
            relay = self.start_relay()
            self.wait_until_published()
            self.assertEqual([message.payload for message in history(self.cluster, point, 1)], [b'"1:0"'], point)
            relay.kill()
        self.assertEqual(len(self.goals()), 3)

    def test_relay_that_is_killed_at_random_times_keeps_the_order_and_stores_each_message_once(self):
        for number in range(200):
            self.save_goal("random", number)
        killed_at_work = 0
        for _ in range(5):
            before = outbox.oldest(self.database)
            if before is None:
                break
            relay = self.start_relay()
            wait_until("the relay works", lambda: outbox.oldest(self.database) != before)
            time.sleep(random.uniform(0, 0.05))
            relay.kill()
            relay.wait(PATIENCE)
            killed_at_work += outbox.oldest(self.database) is not None
        self.assertGreater(killed_at_work, 0)
        self.start_relay()
        self.wait_until_published()
        self.assertEqual(self.values("random", 200), list(range(200)))

    def test_second_relay_does_no_harm(self):
        for number in range(50):
            self.save_goal("two relays", number)
        self.start_relay()
        self.start_relay()
        self.wait_until_published()
        self.assertEqual(self.values("two relays", 50), list(range(50)))

    def test_defective_message_is_set_aside_and_those_behind_it_are_published(self):
        self.save_goal("defective", "x" * 70_000)
        self.save_goal("defective", "2:1")
        self.start_relay()
        self.wait_until_published()
        [message] = history(self.cluster, "defective", 1)
        self.assertEqual(message.payload, b'"2:1"')
        [(error,)] = self.database.execute("SELECT error FROM outbox").fetchall()
        self.assertIn("too_large", error)

    def test_message_is_not_saved_outside_a_transaction(self):
        with self.assertRaises(RuntimeError):
            outbox.save(self.database, "chat/7", "1:0")

    def test_request_saves_the_comment_and_the_relay_publishes_it(self):
        os.environ["DATABASE"] = self.path
        client = app.app.test_client()
        # No relay and no cluster is needed for a request.
        response = client.post("/articles/7/comments", data={"text": "hello"})
        self.assertEqual((response.status_code, response.json), (201, {"id": 1, "text": "hello"}))
        self.start_relay()
        [message] = history(self.cluster, "articles/7/comments", 1)
        self.assertEqual(json.loads(message.payload), response.json)
        self.assertRegex(message.key, "^outbox-")
        self.assertEqual(client.get("/articles/7/comments").json, [response.json])

    def test_failed_request_saves_neither_the_comment_nor_the_message(self):
        os.environ["DATABASE"] = self.path
        client = app.app.test_client()
        client.get("/articles/7/comments")
        self.database.execute("CREATE TRIGGER full BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'full'); END")
        # Flask logs the error of a failed request.
        with self.assertLogs(app.app.logger, level="ERROR"):
            self.assertEqual(client.post("/articles/7/comments", data={"text": "hello"}).status_code, 500)
        self.assertEqual(client.get("/articles/7/comments").json, [])

    def test_relay_ends_when_it_is_asked_to(self):
        relay = self.start_relay()
        self.save_goal("ended", 1)
        self.wait_until_published()
        relay.terminate()
        self.assertEqual(relay.wait(PATIENCE), 0)
