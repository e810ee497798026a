"""The three outcomes of a publish, and how to read them from the status of a failed call."""

from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from pushonce.publisher.v1 import publisher_pb2 as pb


@dataclass(frozen=True)
class Acknowledged:
    """The message is stored. In a `replicated` namespace, the loss of a minority of its replicas does not lose it."""

    position: str
    time_ms: int
    durability: str


@dataclass(frozen=True)
class Rejected:
    """The message is not stored."""

    reason: str
    """The code word of the error, as in the table of proto/README.md; empty if a proxy dropped it."""
    message: str
    """What failed and what to change, for people."""
    retry: bool
    """Whether the same message may succeed later."""
    delay: float = 0.0
    """How many seconds the node asks the publisher to wait."""


@dataclass(frozen=True)
class Unknown:
    """The message may be stored: the connection broke, or no reply arrived in time."""

    message: str


Outcome = Acknowledged | Rejected | Unknown


def acknowledged(response: pb.PublishResponse) -> Outcome:
    """The outcome that a response states."""
    if response.durability == pb.DURABILITY_UNSPECIFIED:
        return Unknown("the response does not say what was promised")
    return Acknowledged(response.position, response.time_ms, pb.Durability.Name(response.durability))


def failed(error: grpc.RpcError) -> Rejected | Unknown:
    """The outcome of a failed call, sync or asyncio."""
    trailers = dict(error.trailing_metadata() or ())
    text = f"{error.code().name}: {error.details()}"
    info, delay = error_info(error)
    # Only a node knows that nothing happened. A status without the trailer comes from a proxy or the transport.
    if trailers.get("pushonce-outcome") != "refused":
        return Unknown(text)
    # A proxy dropped the details.
    if info is None:
        return Rejected("", text, retry=False)
    return Rejected(info.reason, error.details() or "", info.metadata["retry"] == "true", delay)


def error_info(error: grpc.RpcError) -> tuple[error_details_pb2.ErrorInfo | None, float]:
    """What the node that made the status adds to it, None for a status of a proxy or the transport, and the delay that it
    asks for, in seconds."""
    status = rpc_status.from_call(error)
    found, delay = None, 0.0
    for detail in status.details if status else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == "pushonce":
            found = info
        elif detail.Unpack(retry):
            delay = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return found, delay
