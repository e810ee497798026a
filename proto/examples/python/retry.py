"""When to publish a message again. Without I/O, for sync and asyncio callers."""

import random
import time

from outcome import Rejected, Unknown

DEADLINE = 8.0
"""Seconds for a publish with all its attempts: longer than a shard needs to get a new owner (2 s) and than a node waits for
a commit (5 s)."""

ATTEMPT_TIMEOUT = 5.25
"""Seconds for one attempt: longer than a node looks for the owner of a topic (5 s), and leaves time for another node."""


class Backoff:
    """Delays with full jitter: drawn between zero and a bound that doubles up to a maximum, all in seconds."""

    def __init__(self, first: float, maximum: float):
        self._first, self._bound, self._maximum = first, first, maximum

    def next_delay(self) -> float:
        delay = random.uniform(0, self._bound)
        self._bound = min(self._bound * 2, self._maximum)
        return delay

    def reset(self):
        self._bound = self._first


class Attempts:
    """The attempts to publish one message. Every attempt must send the same key or nonce: it is then stored once."""

    def __init__(self, deadline: float):
        self._end = time.monotonic() + deadline
        # Short delays: a shard that changes its owner accepts publishes again after a second or two.
        self._backoff = Backoff(0.02, 0.5)
        self._unknown: Unknown | None = None

    def timeout(self) -> float:
        """Seconds for the next attempt."""
        return max(0.0, min(ATTEMPT_TIMEOUT, self._end - time.monotonic()))

    def delay_after(self, failure: Rejected | Unknown) -> float | None:
        """Seconds to wait before the next attempt; None when there is none."""
        if isinstance(failure, Unknown):
            self._unknown = failure
            asked = 0.0
        elif failure.retry or failure.reason == "token_expired":
            # The next attempt asks for a new token.
            asked = failure.delay
        else:
            return None
        delay = max(self._backoff.next_delay(), asked)
        return delay if time.monotonic() + delay < self._end else None

    def final(self, failure: Rejected | Unknown) -> Rejected | Unknown:
        """The outcome when the last attempt ended with `failure`. A message that one node rejects may have been stored by
        an earlier attempt whose outcome is unknown."""
        return self._unknown or failure
