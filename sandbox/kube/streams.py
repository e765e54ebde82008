"""The stream of a watch: events, bookmarks, errors, faults; as JSON objects, without the socket.

Bookmarks come when asked for, while nothing else does, and as the last event of a watch whose time is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from sandbox.kube import routes, verbs
from sandbox.kube.errors import KubeError
from sandbox.kube.faults import Rule
from sandbox.kube.kinds import Kind, Object
from sandbox.kube.routes import Target
from sandbox.kube.store import Store

BOOKMARK_SECONDS: Final = 10.0
DEFAULT_SECONDS: Final = 1800.0


class Stream:
    """One watch. Made before the answer begins, so that what is wrong with the request is an ordinary error."""

    def __init__(self, store: Store, target: Target, query: Mapping[str, str], rule: Rule | None) -> None:
        if target.name:
            wanted = f"metadata.name={target.name}"
            query = {**query, "fieldSelector": ",".join(filter(None, (query.get("fieldSelector"), wanted)))}
        self._store = store
        self._target = target
        self._matches = verbs.matcher(target.kind, query)
        self._since = verbs.version_of(query) or None
        self._seconds = float(routes.number(query, "timeoutSeconds") or DEFAULT_SECONDS)
        self._bookmarks = routes.truth(query, "allowWatchBookmarks")
        self._rule = rule if rule is not None and rule.events is not None else None

    def events(self, stopped: Callable[[], bool]) -> Iterator[Object]:
        """Until the time is over, `stopped`, or a fault cuts it. An error is the last event."""
        kind, store = self._target.kind, self._store
        clock = store.clock
        until = clock.now() + self._seconds
        sent, marked = 0, clock.now()
        seen = store.version
        try:
            if self._cut(sent):
                return
            for event in store.watch(kind, self._target.namespace, self._matches, self._since, until, stopped):
                if event is not None:
                    yield {"type": event[0], "object": event[1]}
                    seen = max(seen, int(event[1]["metadata"]["resourceVersion"]))
                    sent += 1
                    if self._cut(sent):
                        return
                else:
                    seen = store.version
                    if self._bookmarks and clock.now() - marked >= BOOKMARK_SECONDS:
                        marked = clock.now()
                        yield _bookmark(kind, seen)
            if self._bookmarks and not stopped():
                yield _bookmark(kind, seen)
        except KubeError as error:
            yield {"type": "ERROR", "object": error.body()}

    def _cut(self, sent: int) -> bool:
        """Whether a rule ends the watch here. Raises KubeError 410 if it is to be told."""
        if self._rule is None or self._rule.events is None or sent < self._rule.events:
            return False
        error = self._rule.error()
        if error is not None:
            raise error
        return True


def _bookmark(kind: Kind, version: int) -> Object:
    meta: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
    return {"type": "BOOKMARK", "object": {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta}}
