"""Publishes many messages to one topic in order, each stored once, without waiting for each.

    seq 1000 | python stream_publisher.py chat/7 127.0.0.1:7090 127.0.0.1:7190
"""

import asyncio
import logging
import os
import sys
from collections import deque
from dataclasses import dataclass

import grpc

from connection import Cluster
from outcome import Acknowledged, Outcome, Rejected, Unknown, acknowledged
from pushonce.publisher.v1 import publisher_pb2 as pb
from pushonce.publisher.v1 import publisher_pb2_grpc as rpc
from retry import Backoff

ABORTED = grpc.StatusCode.ABORTED.value[0]

UNACKNOWLEDGED_MAX = 1_000
"""Messages without an outcome. A node accepts up to 8,192 of one producer."""


@dataclass
class Entry:
    """A message without an outcome."""

    request: pb.PublishRequest
    outcome: asyncio.Future[Outcome]
    calls: int = 0
    """How many calls have sent it. After the second one nobody knows what became of the first."""


class MessageFailed(Exception):
    """The oldest message without an outcome was not stored, or nobody knows. Those behind it cannot succeed on this call."""

    def __init__(self, failure: pb.PublishFailure):
        super().__init__(failure.message)
        self.failure = failure


class StreamPublisher:
    """An ordered stream of messages to one topic over any number of calls, one at a time.

    Each message carries the id of this producer and its number. After a failure the messages without an outcome are sent
    again in order, to the next node; the cluster recognises those that it has, and accepts no message before its
    predecessor. There is no deadline: while no node can be reached, the messages wait.
    """

    def __init__(self, cluster: Cluster, topic: str):
        self._cluster, self._topic = cluster, topic
        self._producer, self._epoch, self._next_sequence = os.urandom(16), 1, 1
        # The messages without an outcome, oldest first, and how many of them the present call has sent.
        self._entries: deque[Entry] = deque()
        self._sent = 0
        self._changed = asyncio.Condition()

    async def __aenter__(self):
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_):
        """Ends the stream. Messages without an outcome may be stored: call `flush` before."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def send(self, payload: bytes, content_type: str = "") -> asyncio.Future[Outcome]:
        """Sends a message behind all that were sent before; waits while too many have no outcome. Returns a future of its
        outcome. The messages behind a rejected one are stored all the same."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._entries) < UNACKNOWLEDGED_MAX)
            request = pb.PublishRequest(topic=self._topic, payload=payload, content_type=content_type)
            entry = Entry(request, asyncio.get_running_loop().create_future())
            self._number(entry)
            self._entries.append(entry)
            self._changed.notify_all()
            return entry.outcome

    async def flush(self):
        """Waits until every message that was sent has an outcome."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._entries)

    async def _run(self):
        channels = self._cluster.aio_channels()
        backoff, server = Backoff(0.02, 0.5), 0
        try:
            while True:
                try:
                    await self._call(channels[server], backoff)
                except MessageFailed as error:
                    logging.warning("a message is not acknowledged: %s", error)
                    await self._on_failure(error.failure)
                except Exception as error:
                    # The connection, or the source of the token. No failure ends the stream.
                    logging.warning("the stream continues at another node: %s", error)
                server = (server + 1) % len(channels)
                await asyncio.sleep(backoff.next_delay())
        finally:
            for channel in channels:
                await channel.close()

    async def _call(self, channel: grpc.aio.Channel, backoff: Backoff):
        self._sent = 0
        call = rpc.PublisherServiceStub(channel).PublishStream(metadata=self._cluster.metadata())
        writer = asyncio.create_task(self._write(call))
        try:
            # The responses come in the order of the requests: each is that of the oldest message.
            async for response in call:
                if not response.HasField("published"):
                    raise MessageFailed(response.failed)
                await self._settle(acknowledged(response.published))
                backoff.reset()
        finally:
            call.cancel()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, call):
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._sent < len(self._entries))
                entry = self._entries[self._sent]
                self._sent += 1
                entry.calls += 1
            await call.write(pb.PublishStreamRequest(publish=entry.request))

    async def _on_failure(self, failure: pb.PublishFailure):
        is_first_call = self._entries[0].calls == 1
        if failure.code == ABORTED:
            # Not the next number of this producer, although every message before it is stored: the shard has forgotten
            # the producer, as it may after five minutes without a message.
            await self._begin_epoch(is_first_call)
        elif not failure.retry:
            # The number will not be used, so the numbers behind it would not be accepted.
            rejected = Rejected(failure.reason, failure.message, retry=False)
            await self._settle(rejected if is_first_call else Unknown(failure.message))
            await self._begin_epoch(is_first_call)
        # Else: overloaded, without an owner, or unknown. The next call sends the same number again.

    async def _begin_epoch(self, is_first_call: bool):
        """Numbers the messages from 1 in a new epoch. If the failed message was sent by one call only, it is not stored, nor is
        any behind it. Else each message that was sent may be stored in the old epoch: its outcome is unknown, and it is not
        sent again."""
        while not is_first_call and self._entries and self._entries[0].calls > 0:
            await self._settle(Unknown("the cluster no longer knows the producer"))
        self._epoch, self._next_sequence = self._epoch + 1, 1
        for entry in self._entries:
            entry.calls = 0
            self._number(entry)

    def _number(self, entry: Entry):
        producer = pb.Producer(id=self._producer, epoch=self._epoch, sequence=self._next_sequence)
        entry.request.producer.CopyFrom(producer)
        self._next_sequence += 1

    async def _settle(self, outcome: Outcome):
        async with self._changed:
            entry = self._entries.popleft()
            self._sent -= 1
            # Cancelled when its caller no longer waits.
            if not entry.outcome.done():
                entry.outcome.set_result(outcome)
            self._changed.notify_all()


async def main(topic: str, *servers: str):
    async with StreamPublisher(Cluster(list(servers)), topic) as stream:
        for line in sys.stdin:
            (await stream.send(line.rstrip("\n").encode())).add_done_callback(report)
        await stream.flush()


def report(outcome: asyncio.Future[Outcome]):
    """Prints a message that is not stored, or may not be."""
    if not isinstance(outcome.result(), Acknowledged):
        print(outcome.result(), file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
