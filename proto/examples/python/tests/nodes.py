"""Real nodes on loopback, and what tests do to them."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc

from connection import Cluster
from pushonce.publisher.v1 import publisher_pb2 as pb
from pushonce.publisher.v1 import publisher_pb2_grpc as rpc

PATIENCE = 60.0
"""Far longer than anything takes that a test waits for; reached only on failure."""


class Node:
    """A node as a process of its own."""

    def __init__(self, process: subprocess.Popen, http: str, server: str, peer: str):
        self.process, self.http, self.server, self.peer = process, http, server, peer

    def kill(self):
        """Ends the node at once, as a crash does."""
        self.process.kill()
        self.process.wait(PATIENCE)


class Testbed:
    """A directory and processes that end with the test."""

    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="pushonce-python."))
        self._nodes: list[Node] = []

    def close(self):
        for node in self._nodes:
            node.kill()
        shutil.rmtree(self.directory)

    def node(self, *flags: str, name: str = "solo") -> Node:
        """Starts a node that is a cluster of its own."""
        return self._ready(self._start(name, "--dev", *flags), name)

    def cluster(self) -> list[Node]:
        """Starts a cluster of three nodes."""
        self.command("init", "--name", "a", "--data", self._data("a"))
        first = self._ready(self._start("a", "--name", "a", "--data", self._data("a")), "a")
        others = [
            self._start(name, "--name", name, "--data", self._data(name), "--join", first.peer) for name in ("b", "c")
        ]
        nodes = [first, *(self._ready(node, name) for node, name in zip(others, ("b", "c")))]

        def is_replicated() -> bool:
            # Exit code 3: not yet.
            status = self.command("cluster", "status", "--server", f"http://{first.server}", allowed=(0, 3))
            return status.returncode == 0 and "nothing is moving" in status.stdout

        wait_until("every shard has three replicas", is_replicated)
        return nodes

    def command(self, *arguments: str, allowed: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess:
        """Runs a command of the binary."""
        result = subprocess.run([binary(), *arguments], capture_output=True, text=True, timeout=PATIENCE)
        if result.returncode not in allowed:
            raise AssertionError(f"{arguments} exited with {result.returncode}: {result.stderr}")
        return result

    def _data(self, name: str) -> str:
        return str(self.directory / name)

    def _start(self, name: str, *flags: str) -> Node:
        http, quic, server, peer = (f"127.0.0.1:{port}" for port in free_ports(4))
        addresses = ["--http", http, "--quic", quic, "--grpc", server, "--peer", peer]
        with open(self.directory / f"{name}.log", "wb") as log:
            process = subprocess.Popen([binary(), "serve", *flags, *addresses], stdout=log, stderr=log)
        node = Node(process, http, server, peer)
        self._nodes.append(node)
        return node

    def _ready(self, node: Node, name: str) -> Node:
        def is_ready() -> bool:
            if node.process.poll() is not None:
                log = (self.directory / f"{name}.log").read_text()
                raise AssertionError(f"node {name} exited with {node.process.returncode}:\n{log}")
            try:
                with urllib.request.urlopen(f"http://{node.http}/health/ready", timeout=5) as response:
                    return response.status == 200
            except OSError:
                return False

        wait_until(f"node {name} is ready", is_ready)
        return node


def binary() -> str:
    """The binary of the nodes."""
    return os.environ["PUSHONCE"]


def free_ports(count: int) -> list[int]:
    """Ports that are not in use."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


def wait_until(condition: str, holds: Callable[[], bool]):
    """Waits until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"timed out after {PATIENCE:.0f} s waiting until {condition}")
        time.sleep(0.05)


def history(cluster: Cluster, topic: str, count: int) -> list[pb.Message]:
    """The messages of a topic, once there are at least `count`."""
    end = time.monotonic() + PATIENCE
    messages: list[pb.Message] = []
    while len(messages) < count:
        if time.monotonic() > end:
            raise AssertionError(f"{topic} has {len(messages)} messages after {PATIENCE:.0f} s, not {count}")
        messages = read_all(cluster, topic)
    return messages


def read_all(cluster: Cluster, topic: str) -> list[pb.Message]:
    """The messages of a topic until its end, as the node that answers first knows it."""
    for channel in cluster.channels():
        with channel:
            stub = rpc.PublisherServiceStub(channel)
            request = pb.SubscribeRequest(topic=topic, start_from=pb.StartFrom(start=True))
            call = stub.Subscribe(request, timeout=PATIENCE, metadata=cluster.metadata())
            try:
                newest = next(call).subscribed.position
                messages = []
                while newest != "0:0" and (not messages or messages[-1].position != newest):
                    event = next(call)
                    if event.HasField("gap"):
                        raise AssertionError(f"{topic} has a gap: {event.gap}")
                    if event.HasField("message"):
                        messages.append(event.message)
                return messages
            except grpc.RpcError as error:
                failure = error
            finally:
                call.cancel()
    raise AssertionError(f"no node answers: {failure}")
