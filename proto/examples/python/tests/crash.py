"""A program with an outbox that is killed at one point: python crash.py POINT DATABASE SERVER"""

import os
import signal
import sys
import threading

import outbox
from connection import Cluster
from outcome import Outcome
from publisher import Publisher
from relay import Relay


def die():
    """No handler runs and nothing is flushed, as when the machine loses power."""
    os.kill(os.getpid(), signal.SIGKILL)


class CrashingPublisher(Publisher):
    """Dies before or after the publish."""

    point = ""

    def publish(self, *message, **options) -> Outcome:
        if self.point == "before the publish":
            die()
        outcome = super().publish(*message, **options)
        if self.point == "between the publish and the delete":
            die()
        return outcome


def delete_and_die(database, message):
    delete(database, message)
    die()


point, path, server = sys.argv[1:]
database = outbox.connect(path)
database.execute("CREATE TABLE IF NOT EXISTS goals (score TEXT NOT NULL)")
with outbox.transaction(database):
    database.execute("INSERT INTO goals VALUES ('1:0')")
    outbox.save(database, point, "1:0")
    if point == "before the commit":
        die()
CrashingPublisher.point = point
delete = outbox.delete
if point == "after the delete":
    outbox.delete = delete_and_die
Relay(database, CrashingPublisher(Cluster([server]))).run(threading.Event())
