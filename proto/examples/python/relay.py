"""Publishes the messages of an outbox in order, and deletes each after its acknowledgement.

    python relay.py shop.db 127.0.0.1:7090 127.0.0.1:7190

Run one for each database, under a supervisor that starts it again. It may be killed at any time; start it again within five
minutes, since a cluster recognises a repeated key for at least that long. A second relay of the same database does no harm.
"""

import logging
import signal
import sqlite3
import sys
import threading

import outbox
from connection import Cluster
from outcome import Acknowledged, Rejected
from publisher import Publisher

POLL = 0.05
"""Seconds until an empty outbox is read again: the delay that the outbox adds to a message is at most about this."""

PAUSE = 1.0
"""Seconds after a publish without success. The publisher has already tried for its deadline."""

DEFECTIVE = {"bad_topic", "bad_request", "too_large", "not_supported", "key_reused"}
"""The message itself is wrong. Other rejections end when an operator changes a token or a limit: the message waits."""


class Relay:
    """The loop from the outbox to the cluster."""

    def __init__(self, database: sqlite3.Connection, publisher: Publisher):
        self._database, self._publisher = database, publisher

    def run(self, stop: threading.Event):
        """Runs until `stop` is set."""
        while not stop.is_set():
            message = outbox.oldest(self._database)
            if message is None:
                stop.wait(POLL)
            elif not self._publish(message):
                stop.wait(PAUSE)

    def _publish(self, message: outbox.SavedMessage) -> bool:
        """Publishes the oldest message. Returns whether the next one may follow: the order of the messages is kept."""
        outcome = self._publisher.publish(
            message.topic, message.payload, key=message.key, content_type=message.content_type
        )
        match outcome:
            case Acknowledged():
                outbox.delete(self._database, message)
                return True
            case Rejected(reason=reason) if reason in DEFECTIVE:
                logging.error("message %d is set aside: %s", message.id, outcome)
                outbox.set_aside(self._database, message, str(outcome))
                return True
            case _:
                logging.warning("message %d is published again: %s", message.id, outcome)
                return False


def main(path: str, *servers: str):
    logging.basicConfig(level=logging.INFO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Publisher(Cluster(list(servers))) as publisher:
        Relay(outbox.connect(path), publisher).run(stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
