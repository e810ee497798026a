"""A Flask application that saves, then publishes once: readers of a page see each new comment.

    DATABASE=shop.db flask --app app run & python relay.py shop.db 127.0.0.1:7090
    curl -d text=hello http://127.0.0.1:5000/articles/7/comments

It does not talk to the cluster: a request succeeds when the comment and its message are on disk, also while no node runs.
"""

import os
import sqlite3

import flask

import outbox

app = flask.Flask(__name__)

COMMENTS = """
CREATE TABLE IF NOT EXISTS comments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    article INTEGER NOT NULL,
    text TEXT NOT NULL
)
"""


def database() -> sqlite3.Connection:
    """The connection of this request."""
    if "database" not in flask.g:
        flask.g.database = outbox.connect(os.environ["DATABASE"])
        flask.g.database.execute(COMMENTS)
    return flask.g.database


@app.teardown_appcontext
def close_database(_error):
    if "database" in flask.g:
        flask.g.pop("database").close()


@app.post("/articles/<int:article>/comments")
def add_comment(article: int):
    text = flask.request.form["text"]
    with outbox.transaction(database()):
        cursor = database().execute("INSERT INTO comments (article, text) VALUES (?, ?)", (article, text))
        comment = {"id": cursor.lastrowid, "text": text}
        outbox.save(database(), f"articles/{article}/comments", comment)
    return comment, 201


@app.get("/articles/<int:article>/comments")
def list_comments(article: int):
    rows = database().execute("SELECT id, text FROM comments WHERE article = ? ORDER BY id", (article,))
    return [{"id": number, "text": text} for number, text in rows]
