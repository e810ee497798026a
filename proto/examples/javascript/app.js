// An Express application that saves, then publishes once: readers of a page see each new comment.
//
//   DATABASE=shop.db node app.js & node relay.js shop.db 127.0.0.1:7090
//   curl -d text=hello http://127.0.0.1:3000/articles/7/comments
//
// It does not talk to the cluster: a request succeeds when the comment and its message are on disk, also while no node runs.

import { pathToFileURL } from "node:url";
import express from "express";
import * as outbox from "./outbox.js";

const COMMENTS = `
CREATE TABLE IF NOT EXISTS comments (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  article INTEGER NOT NULL,
  text TEXT NOT NULL
)`;

/** The application over a database. */
export function createApp(database) {
  database.exec(COMMENTS);
  const app = express();
  app.use(express.urlencoded());

  app.post("/articles/:article/comments", (request, response) => {
    const article = Number(request.params.article);
    const text = request.body?.text;
    if (!Number.isInteger(article) || typeof text !== "string") return response.status(400).end();
    const comment = outbox.transaction(database, () => {
      const insert = database.prepare("INSERT INTO comments (article, text) VALUES (?, ?)");
      const { lastInsertRowid: id } = insert.run(article, text);
      outbox.save(database, `articles/${article}/comments`, { id, text });
      return { id, text };
    });
    response.status(201).json(comment);
  });

  app.get("/articles/:article/comments", (request, response) => {
    const comments = database.prepare("SELECT id, text FROM comments WHERE article = ? ORDER BY id");
    response.json(comments.all(Number(request.params.article)));
  });
  return app;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  createApp(outbox.connect(process.env.DATABASE)).listen(3000, "127.0.0.1");
}
