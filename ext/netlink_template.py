"""From operations to message templates: the bytes of a batch, and where the value of each slot goes.

Cold code: once per shape, or for host set-up. Filling and sending is done in C, which checks the bounds of each
template once, when it is made.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from ext._netlink import Template
from ext.netlink_ops import Op, Slot, size_of

__all__ = ["MAX_BATCH", "MAX_MESSAGES", "MAX_TOLERATED", "Template", "batches", "compile_ops"]

MAX_BATCH: Final = 12 << 10  # bytes; C puts a batch together on its stack
MAX_MESSAGES: Final = 128
MAX_TOLERATED: Final = 4
REQUEST, ACK = 0x1, 0x4


def compile_ops(ops: Sequence[Op], layout: dict[str, tuple[int, int]] | None = None) -> Template:
    """The messages of `ops` as one batch. Slots are laid out in the order of first use, packed, or as `layout`
    (name to offset and size) says. Only the last message asks for an acknowledgement: errors are always told.

    Raises ValueError: no op, too many for one batch, a slot of two sizes, a slot that the layout lacks.
    """
    if not 0 < len(ops) <= MAX_MESSAGES:
        raise ValueError(f"a batch has 1 to {MAX_MESSAGES} messages, not {len(ops)}")
    fixed = layout is not None
    layout = dict(layout or {})
    end = max((offset + size for offset, size in layout.values()), default=0)
    data, patches, messages = bytearray(), bytearray(), bytearray()
    for place, op in enumerate(ops):
        if len(op.tolerate) > MAX_TOLERATED:
            raise ValueError(f"{op.kind} tolerates {len(op.tolerate)} errnos; at most {MAX_TOLERATED} fit")
        messages += struct.pack("=H4h", len(data), *op.tolerate, *[0] * (MAX_TOLERATED - len(op.tolerate)))
        flags = op.flags | REQUEST | (ACK if place == len(ops) - 1 else 0)
        size = size_of(op.body)
        data += struct.pack("=IHHII", 16 + size, op.type, flags, 0, 0)
        for part in op.body:
            if isinstance(part, Slot):
                if part.name not in layout:
                    if fixed:
                        raise ValueError(f"{op.kind}: the layout has no slot {part.name}")
                    layout[part.name] = (end, part.size)
                    end += part.size
                offset, known = layout[part.name]
                if known != part.size:
                    raise ValueError(f"{op.kind}: slot {part.name} has sizes {known} and {part.size}")
                patches += struct.pack("=HHH", len(data), offset, part.size)
                data += bytes(part.size)
            else:
                data += part
        data += bytes(-size % 4)
    if len(data) > MAX_BATCH:
        raise ValueError(f"the batch has {len(data)} bytes; at most {MAX_BATCH} fit")
    return Template(bytes(data), bytes(patches), bytes(messages), tuple(op.kind for op in ops), layout, end)


def batches(ops: Iterable[Op]) -> list[Template]:
    """Ops without slots as one template or, if they do not fit, several."""
    found: list[Template] = []
    at: list[Op] = []
    size = 0
    for op in ops:
        need = 16 + size_of(op.body) + 3
        if at and (len(at) == MAX_MESSAGES or size + need > MAX_BATCH):
            found.append(compile_ops(at))
            at, size = [], 0
        at.append(op)
        size += need
    return [*found, compile_ops(at)] if at else found
