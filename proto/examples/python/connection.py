"""Where the nodes are, and what a caller shows them."""

from collections.abc import Callable
from dataclasses import dataclass

import grpc

Token = Callable[[], str]
"""Returns a token that is valid now. It is called for each attempt, so it should read a file or a variable, no network."""

OPTIONS = [
    # A node that restarts is back within a second; by default a channel waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Finds a connection that died without a word (a host without power) during a stream.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


@dataclass(frozen=True)
class Cluster:
    """The nodes of a cluster: any node takes any call."""

    servers: list[str]
    """The addresses of gRPC, `host:port`."""
    token: Token | None = None
    """Required by nodes with issuers."""
    roots: bytes | None = None
    """The certificates (PEM) of the authority of the nodes, for TLS. `b""`: the public authorities. None: no TLS."""

    def __post_init__(self):
        if not self.servers:
            raise ValueError("a cluster needs at least one server")

    def channels(self) -> list[grpc.Channel]:
        """One channel for each node. A channel connects at its first call."""
        return [self._open(grpc, server) for server in self.servers]

    def aio_channels(self) -> list[grpc.aio.Channel]:
        """The same for asyncio."""
        return [self._open(grpc.aio, server) for server in self.servers]

    def metadata(self) -> list[tuple[str, str]]:
        """The metadata of each call."""
        return [("authorization", f"Bearer {self.token()}")] if self.token else []

    def _open(self, module, server: str):
        if self.roots is None:
            return module.insecure_channel(server, options=OPTIONS)
        credentials = grpc.ssl_channel_credentials(self.roots or None)
        return module.secure_channel(server, credentials, options=OPTIONS)
