"""What can go wrong between a user and the world, as one type with a stable code.

The client raises the same failure that the daemon answered with, so a caller decides by `code` and a person
reads `text`. EC2's own errors are another matter (they travel inside EC2 answers).
"""

from __future__ import annotations


class SandboxFailure(Exception):
    """`code`: stable word; `text` names the thing, the value and the rule.

    Codes: bad-request, unknown (no such node, pod, process), exists, not-running, already-running, stale, timeout,
    privilege, missing (a program), kernel, cni, internal.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
