"""The publisher of publisher.py for asyncio: many messages at the same time over one connection."""

import asyncio

import grpc

from connection import Cluster
from outcome import Acknowledged, Outcome, acknowledged, failed
from publisher import is_of_the_node, publish_request
from pushonce.publisher.v1 import publisher_pb2 as pb
from pushonce.publisher.v1 import publisher_pb2_grpc as rpc
from retry import DEADLINE, Attempts


class AsyncPublisher:
    """Publishes to one node of the cluster until it fails, then to the next. Tasks of one event loop may share it."""

    def __init__(self, cluster: Cluster, deadline: float = DEADLINE):
        self._cluster, self._deadline = cluster, deadline
        self._channels = cluster.aio_channels()
        self._stubs = [rpc.PublisherServiceStub(channel) for channel in self._channels]
        self._current = 0

    async def publish(self, topic: str, payload: bytes, *, key: str = "", content_type: str = "") -> Outcome:
        """Publishes one message and waits for its outcome, at most for the deadline. Messages that are published at the
        same time have no order: use stream_publisher.py for many messages in order."""
        request = publish_request(topic, payload, key, content_type)
        attempts = Attempts(self._deadline)
        while True:
            outcome = await self._try(request, attempts.timeout())
            if isinstance(outcome, Acknowledged):
                return outcome
            delay = attempts.delay_after(outcome)
            if delay is None:
                return attempts.final(outcome)
            await asyncio.sleep(delay)

    async def _try(self, request: pb.PublishRequest, timeout: float) -> Outcome:
        server = self._current
        try:
            call = self._stubs[server].Publish(request, timeout=timeout, metadata=self._cluster.metadata())
            return acknowledged(await call)
        except grpc.aio.AioRpcError as error:
            outcome = failed(error)
            if is_of_the_node(error, outcome) and self._current == server:
                self._current = (server + 1) % len(self._stubs)
            return outcome

    async def close(self):
        """Closes the connections."""
        for channel in self._channels:
            await channel.close()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()
