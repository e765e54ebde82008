from array import array
from typing import Any

def set_fault(nth: int, error: int, after: int) -> int:
    """Test builds (ENID_FAULTS): see netlink.h. -1 in other builds."""

class Template:
    data: bytes
    patches: bytes
    messages: bytes
    names: tuple[str, ...]
    layout: dict[str, tuple[int, int]]
    size: int
    def __init__(
        self,
        data: bytes,
        patches: bytes,
        messages: bytes,
        names: tuple[str, ...],
        layout: dict[str, tuple[int, int]],
        size: int,
    ) -> None: ...

class Shape:
    templates: tuple[Template, ...]
    size: int
    def __init__(
        self, link: Template, host: Template, pod: Template, undo: Template, remove: Template, sysctls: bool
    ) -> None: ...

class Socket:
    def __init__(self, fd: int = -1, *, check: bool = True, groups: int = 0) -> None:
        """Opens (fd -1) or adopts. Raises NetlinkError, WrongSocket."""
    def close(self) -> None:
        """Closes the descriptor; twice is fine."""
    def fileno(self) -> int:
        """The descriptor, -1 if closed."""
    @property
    def identity(self) -> tuple[int, int]:
        """Port id and namespace cookie."""
    @property
    def counters(self) -> tuple[int, int]:
        """System calls made and messages sent so far."""
    def run(self, template: Template, slots: bytes | bytearray = b"", deadline_ns: int = 0) -> int:
        """Send a batch, read all answers. Returns how many messages took effect (the others met an errno that their op
        tolerates). Raises KernelError for the first message refused (those after it were still tried), or naming
        `send` or `receive` if the answers did not come."""
    def new_link(self, template: Template, slots: bytes | bytearray = b"", deadline_ns: int = 0) -> tuple[int, int]:
        """Run a template of exactly one veth_add: indexes of the host end and of the peer in its own namespace.
        Raises NameTaken, KernelError."""
    def get_link(self, name: bytes, index: int, deadline_ns: int = 0) -> tuple[Any, ...] | None:
        """The fields of a link by index, or by name if that is 0."""

class Monitor(Socket):
    def watch(self, own: set[int], deletions_only: bool) -> None:
        """Port ids whose changes are dropped."""
    def drain(self) -> list[tuple[int, tuple[Any, ...]]]:
        """All events as (type, fields); (0, ()) stands where some were lost."""

def pod_add(
    host: Socket, pod: Socket, shape: Shape, slots: bytearray, took: bytearray | None, deadline_ns: int
) -> int: ...
def pod_del(host: Socket, shape: Shape, slots: bytearray, deadline_ns: int) -> int: ...
def group_delete(host: Socket, indexes: array[int], group: int, deadline_ns: int) -> int: ...
def dump(
    socket: Socket, kind: int, family: int = 0, match: int = 0, deadline_ns: int = 0
) -> tuple[list[tuple[Any, ...]], bool]:
    """The fields of all things of a kind, and whether the dump was interrupted by a change."""
