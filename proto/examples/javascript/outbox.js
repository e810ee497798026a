// Messages that are saved in the transaction of the change that they announce, and published afterwards.
//
// Without an outbox, a crash between `COMMIT` and the publish loses the message, and a publish before `COMMIT` announces a
// change that may never happen. A relay (relay.js) publishes the saved messages in order and deletes each after its
// acknowledgement. A relay that crashes in between publishes the message again, with the same key: it is stored once.

import { randomUUID } from "node:crypto";
// From Node 22 on, `node:sqlite` has the same interface.
import { DatabaseSync } from "@photostructure/sqlite";

const SCHEMA = `
CREATE TABLE IF NOT EXISTS outbox (
  -- The order of publishing. AUTOINCREMENT: an id is never used twice, not even after a DELETE.
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  -- The idempotency key. Random, because the ids of two databases, or of one that was restored, are the same.
  key TEXT NOT NULL UNIQUE,
  topic TEXT NOT NULL,
  payload TEXT NOT NULL,
  -- Why no node will ever accept the message. NULL: to be published.
  error TEXT
)`;

/** Opens the database. @param {string} path */
export function connect(path) {
  const database = new DatabaseSync(path);
  // Readers do not wait for the writer, a committed transaction is on disk, and two writers wait for each other.
  database.exec("PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL");
  database.exec(SCHEMA);
  return database;
}

/** Commits all changes of `change` together, or none of them. `change` must not await: other requests use the connection. */
export function transaction(database, change) {
  database.exec("BEGIN IMMEDIATE");
  try {
    const result = change();
    database.exec("COMMIT");
    return result;
  } catch (error) {
    database.exec("ROLLBACK");
    throw error;
  }
}

/** Saves a message as JSON. Call it within the transaction of the change that the message announces. */
export function save(database, topic, message) {
  if (!database.isTransaction) throw new Error("save needs the transaction of the change that the message announces");
  database
    .prepare("INSERT INTO outbox (key, topic, payload) VALUES (?, ?, ?)")
    .run(`outbox-${randomUUID()}`, topic, JSON.stringify(message));
}

/** The next message to publish. */
export function oldest(database) {
  return database
    .prepare("SELECT id, key, topic, payload FROM outbox WHERE error IS NULL ORDER BY id LIMIT 1")
    .get();
}

/** Deletes a message after its acknowledgement. */
export function remove(database, message) {
  database.prepare("DELETE FROM outbox WHERE id = ?").run(message.id);
}

/** Keeps a message that no node will ever accept, for a person to look at, so that the messages behind it continue. */
export function setAside(database, message, error) {
  database.prepare("UPDATE outbox SET error = ? WHERE id = ?").run(error, message.id);
}
