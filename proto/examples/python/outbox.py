"""Messages that are saved in the transaction of the change that they announce, and published afterwards.

Without an outbox, a crash between `COMMIT` and the publish loses the message, and a publish before `COMMIT` announces a
change that may never happen. A relay (relay.py) publishes the saved messages in order and deletes each after its
acknowledgement. A relay that crashes in between publishes the message again, with the same key: it is stored once.
"""

import json
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
    -- The order of publishing. AUTOINCREMENT: an id is never used twice, not even after a DELETE.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The idempotency key. Random, because the ids of two databases, or of one that was restored, are the same.
    key TEXT NOT NULL UNIQUE,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    content_type TEXT NOT NULL,
    -- Why no node will ever accept the message. NULL: to be published.
    error TEXT
)
"""


@dataclass(frozen=True)
class SavedMessage:
    """A message that is to be published."""

    id: int
    key: str
    topic: str
    payload: bytes
    content_type: str


def connect(path: str) -> sqlite3.Connection:
    """Opens the database, with transactions as `transaction` states them."""
    database = sqlite3.connect(path, isolation_level=None, timeout=10)
    # Readers do not wait for the writer, and a committed transaction is on disk.
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute(SCHEMA)
    return database


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Commits all changes of the block together, or none of them."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def save(database: sqlite3.Connection, topic: str, message: object):
    """Saves a message as JSON. Call it within the transaction of the change that the message announces."""
    if not database.in_transaction:
        raise RuntimeError("save needs the transaction of the change that the message announces")
    database.execute(
        "INSERT INTO outbox (key, topic, payload, content_type) VALUES (?, ?, ?, 'application/json')",
        (f"outbox-{uuid.uuid4()}", topic, json.dumps(message).encode()),
    )


def oldest(database: sqlite3.Connection) -> SavedMessage | None:
    """The next message to publish."""
    row = database.execute(
        "SELECT id, key, topic, payload, content_type FROM outbox WHERE error IS NULL ORDER BY id LIMIT 1"
    ).fetchone()
    return SavedMessage(*row) if row else None


def delete(database: sqlite3.Connection, message: SavedMessage):
    """Deletes a message after its acknowledgement."""
    database.execute("DELETE FROM outbox WHERE id = ?", (message.id,))


def set_aside(database: sqlite3.Connection, message: SavedMessage, error: str):
    """Keeps a message that no node will ever accept, for a person to look at, so that the messages behind it continue."""
    database.execute("UPDATE outbox SET error = ? WHERE id = ?", (error, message.id))
