"""botocore's HTTP connections, known by the call that uses them, so that a call can be cut off.

botocore bounds each read and never the whole exchange, and keeps its sockets to itself. Its connection pools are
replaced by ones whose connections say, at each request, which call of ours they work for (`deadline.cut_after`).

Before a request goes out botocore asks for credentials, on connections that are not these, and resolves the name;
either may take longer than the call or its worker has. So whether it may still be sent is asked here, at the last
moment.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore import awsrequest  # type: ignore[import-untyped]  # botocore ships no types

from clients.deadline import Cut, left

_local = threading.local()


@contextmanager
def calling(cut: Cut) -> Iterator[None]:
    """What this thread requests until the block ends belongs to this call."""
    _local.cut = cut
    try:
        yield
    finally:
        _local.cut = None


def current() -> Cut | None:
    """The call that this thread is at."""
    cut: Cut | None = getattr(_local, "cut", None)
    return cut


class _Known:
    """Mixed into a connection: tells the thread's call of itself before it connects or sends, and ends what is late."""

    def connect(self) -> None:
        self._join_call()
        super().connect()  # type: ignore[misc]  # of the connection's class
        # The name has been resolved; nothing has been sent.
        self._join_call()

    def request(self, *arguments: Any, **more: Any) -> Any:
        self._join_call()
        return super().request(*arguments, **more)  # type: ignore[misc]

    def _join_call(self) -> None:
        cut = current()
        if cut is None:
            return
        if cut.happened or left() <= 0:
            cut.held_back = True
            raise TimeoutError("too late to be sent")
        cut.connection = self


class _Plain(_Known, awsrequest.AWSHTTPConnection):  # type: ignore[misc]  # no types
    pass


class _Secure(_Known, awsrequest.AWSHTTPSConnection):  # type: ignore[misc]
    pass


class _PlainPool(awsrequest.AWSHTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _Plain


class _SecurePool(awsrequest.AWSHTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _Secure


def bound(client: Any) -> None:
    """Let all calls of a botocore client be cut off. Its connections are made anew by the classes above."""
    session = client._endpoint.http_session
    # The session's managers, for proxies too, look their classes up in this one dictionary.
    session._pool_classes_by_scheme.update({"http": _PlainPool, "https": _SecurePool})
