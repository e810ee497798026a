"""Subscribes to one topic and continues after every failure where it stopped, at another node.

    python subscriber.py chat/7 127.0.0.1:7090 127.0.0.1:7190
"""

import sys
import time
from collections.abc import Iterator

import grpc

from connection import Cluster
from outcome import error_info
from pushonce.publisher.v1 import publisher_pb2 as pb
from pushonce.publisher.v1 import publisher_pb2_grpc as rpc
from retry import Backoff

FINAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
}
"""A new call would end in the same way."""


class Subscriber:
    """A subscription of one topic over any number of calls, one at a time."""

    def __init__(self, cluster: Cluster, topic: str, start_from: pb.StartFrom | None = None):
        self._cluster, self._topic = cluster, topic
        self.start_from = start_from or pb.StartFrom(now=True)
        """Where the next call begins. Store `start_from.position` with the effect of a message, in one transaction, to
        continue there after a restart of this program."""

    def events(self) -> Iterator[pb.Message | pb.Gap]:
        """The messages in order, each once. A gap names messages that will not come: load the state that they changed from
        its source again.

        Raises grpc.RpcError when no new call can succeed, as for a malformed topic.
        """
        channels = self._cluster.channels()
        backoff = Backoff(0.1, 5.0)
        try:
            server = 0
            while True:
                try:
                    for event in self._call(channels[server]):
                        backoff.reset()
                        yield event
                except grpc.RpcError as error:
                    delay = max(delay_before_next_call(error), backoff.next_delay())
                else:
                    delay = backoff.next_delay()
                server = (server + 1) % len(channels)
                time.sleep(delay)
        finally:
            for channel in channels:
                channel.close()

    def _call(self, channel: grpc.Channel) -> Iterator[pb.Message | pb.Gap]:
        request = pb.SubscribeRequest(topic=self._topic, start_from=self.start_from)
        for event in rpc.PublisherServiceStub(channel).Subscribe(request, metadata=self._cluster.metadata()):
            match event.WhichOneof("event"):
                case "message":
                    self._continue_after(event.message.position)
                    yield event.message
                case "gap":
                    self._continue_after(event.gap.last)
                    yield event.gap
                case "subscribed" if self.start_from.HasField("now"):
                    self._continue_after(event.subscribed.position)
                # Empty while the topic is stale, and before the first message of a history that was requested.
                case "heartbeat" if event.heartbeat.position:
                    self._continue_after(event.heartbeat.position)

    def _continue_after(self, position: str):
        self.start_from = pb.StartFrom(position=position)


def delay_before_next_call(error: grpc.RpcError) -> float:
    """The seconds that the node asks for. Raises the error when a new call would end in the same way."""
    info, delay = error_info(error)
    if error.code() in FINAL and info is not None:
        raise error
    # A token that has expired is replaced: the next call asks for a new one. Another invalid token stays invalid.
    if error.code() is grpc.StatusCode.UNAUTHENTICATED and (info is None or info.reason != "token_expired"):
        raise error
    return delay


def main(topic: str, *servers: str):
    for event in Subscriber(Cluster(list(servers)), topic).events():
        match event:
            case pb.Message():
                print(event.position, event.payload.decode(errors="replace"), flush=True)
            case pb.Gap():
                print(f"gap from {event.first} to {event.last}: {event.reason}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
