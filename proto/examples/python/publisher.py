"""Publishes messages and reports one of three outcomes: acknowledged, rejected or unknown.

    python publisher.py chat/7 '{"text":"goal!"}' 127.0.0.1:7090 127.0.0.1:7190
"""

import os
import sys
import time

import grpc

from connection import Cluster
from outcome import Acknowledged, Outcome, Rejected, Unknown, acknowledged, failed
from pushonce.publisher.v1 import publisher_pb2 as pb
from pushonce.publisher.v1 import publisher_pb2_grpc as rpc
from retry import DEADLINE, Attempts


class Publisher:
    """Publishes to one node of the cluster until it fails, then to the next. Threads may share it; a process that forks
    must create it after the fork."""

    def __init__(self, cluster: Cluster, deadline: float = DEADLINE):
        self._cluster, self._deadline = cluster, deadline
        self._channels = cluster.channels()
        self._stubs = [rpc.PublisherServiceStub(channel) for channel in self._channels]
        self._current = 0

    def publish(self, topic: str, payload: bytes, *, key: str = "", content_type: str = "") -> Outcome:
        """Publishes one message and waits for its outcome, at most for the deadline.

        The message is stored once, however many attempts it takes. That holds for a later call, too, and after a restart
        of this program, if it has the same `key` within five minutes.
        """
        request = publish_request(topic, payload, key, content_type)
        attempts = Attempts(self._deadline)
        while True:
            outcome = self._try(request, attempts.timeout())
            if isinstance(outcome, Acknowledged):
                return outcome
            delay = attempts.delay_after(outcome)
            if delay is None:
                return attempts.final(outcome)
            time.sleep(delay)

    def _try(self, request: pb.PublishRequest, timeout: float) -> Outcome:
        server = self._current
        try:
            return acknowledged(self._stubs[server].Publish(request, timeout, self._cluster.metadata()))
        except grpc.RpcError as error:
            outcome = failed(error)
            if is_of_the_node(error, outcome) and self._current == server:
                self._current = (server + 1) % len(self._stubs)
            return outcome

    def close(self):
        """Closes the connections."""
        for channel in self._channels:
            channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def publish_request(topic: str, payload: bytes, key: str, content_type: str) -> pb.PublishRequest:
    """A request that is safe to repeat: without a key it gets a nonce, which subscribers do not receive."""
    nonce = b"" if key else os.urandom(16)
    return pb.PublishRequest(topic=topic, payload=payload, key=key, nonce=nonce, content_type=content_type)


def is_of_the_node(error: grpc.RpcError, outcome: Rejected | Unknown) -> bool:
    """Whether another node may do better."""
    return isinstance(outcome, Unknown) or error.code() is grpc.StatusCode.UNAVAILABLE


def main(topic: str, text: str, *servers: str) -> int:
    with Publisher(Cluster(list(servers))) as publisher:
        match publisher.publish(topic, text.encode()):
            case Acknowledged(position=position):
                print(position)
                return 0
            case Rejected(reason=reason, message=message):
                print(f"not stored ({reason}): {message}", file=sys.stderr)
                return 1
            case Unknown(message=message):
                print(f"may be stored: {message}", file=sys.stderr)
                return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
