"""How EC2 refuses: the error that is raised, and the row of the table that makes it."""

from __future__ import annotations

from dataclasses import dataclass


class Ec2Error(Exception):
    """A call refused as EC2 would: `code`, `text` and the HTTP `status`. `source` names who says so."""

    def __init__(self, code: str, text: str, status: int = 400, source: str = "") -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.status = status
        self.source = source


@dataclass(frozen=True, slots=True)
class Rule:
    """One way in which EC2 refuses; called with the names of its text it makes the error."""

    code: str
    text: str
    source: str
    status: int = 400

    def __call__(self, **names: object) -> Ec2Error:
        return Ec2Error(self.code, self.text.format(**names), self.status, self.source)
