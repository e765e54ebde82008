"""The EC2 Query protocol, driven by botocore's description of the API (`data/ec2_model.json`).

A request is a form whose keys are paths (`Filter.1.Value.2`); the answer is XML. Names and types are the model's, so
a new field is new data. Strict on purpose: a request member that the action does not model is refused by name, since
a simulator that drops what it does not know lets tests pass that AWS would fail.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from operator import is_
from typing import Any, Final
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from sandbox.ec2 import errors

Form = list[tuple[str, str]]
Writer = Callable[[Any, list[str]], None]
SIGNATURE_KEYS: Final = frozenset({"Action", "Version", "AWSAccessKeyId", "Signature", "SignatureMethod", "Timestamp"})
MAX_MEMBERS: Final = 20_000
MOST_KEPT: Final = 4096  # texts, of some 5 kB each for an ENI with ten addresses
_XML_UNSAFE: Final = {chr(code): "\ufffd" for code in range(32) if code not in (9, 10, 13)}


@dataclass(slots=True)
class _Read:
    """How to read one shape: members by wire name, or the item of a list."""

    kind: str
    members: dict[str, tuple[str, str]] = field(default_factory=dict)  # wire name: member, shape
    item: str = ""
    enum: frozenset[str] = frozenset()
    required: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """A structure of an answer that follows from immutable records alone, so that its text may be kept.

    `key`: whose it is; `records`: what it follows from, compared by identity; `make`: how to make it otherwise.
    """

    key: str
    records: tuple[object, ...]
    make: Callable[[], Mapping[str, Any]]


class Model:
    """The description, compiled on demand."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.version: str = data["version"]
        self.namespace: str = data["namespace"]
        self.operations: Mapping[str, Mapping[str, str]] = data["operations"]
        self.others: frozenset[str] = frozenset(data["others"])
        self._shapes: Mapping[str, Any] = data["shapes"]
        self._reads: dict[str, _Read] = {}
        self._writers: dict[str, Writer] = {}
        self._kept: dict[tuple[str, str], tuple[tuple[object, ...], str]] = {}

    @classmethod
    def load(cls) -> Model:
        return cls(json.loads((resources.files("sandbox.ec2") / "data" / "ec2_model.json").read_text()))

    # --- requests -------------------------------------------------------------------------------------------

    def parse(self, action: str, form: Form, simulated: frozenset[str]) -> dict[str, Any]:
        """The typed members of a request, named as boto3 names them.

        `simulated`: paths of the members that the action models (`TagSpecifications.Tags.Key`).
        Raises UNKNOWN_PARAMETER, NOT_SIMULATED, MISSING_PARAMETER, INVALID_VALUE.
        """
        root = self.operations[action].get("input")
        if len(form) > MAX_MEMBERS:
            raise errors.INVALID_VALUE(value=len(form), name="request", why=f"More than {MAX_MEMBERS} members.")
        tree: dict[str, Any] = {}
        for key, value in form:
            if key in SIGNATURE_KEYS or key.startswith("X-Amz-"):
                continue
            if root is None:
                raise errors.UNKNOWN_PARAMETER(name=key)
            self._place(tree, root, key, value, action, simulated)
        return self._settle(tree, root, "") if root else {}

    def _place(
        self, tree: dict[str, Any], shape_name: str, key: str, value: str, action: str, simulated: frozenset[str]
    ) -> None:
        node: dict[Any, Any] = tree
        slot: Any = None
        path: list[str] = []
        read = self._read(shape_name)
        for part in key.split("."):
            if slot is not None:
                node = node.setdefault(slot, {})
                if not isinstance(node, dict):
                    raise errors.UNKNOWN_PARAMETER(name=key)
            if read.kind == "structure" and part in read.members:
                slot, below = read.members[part]
                path.append(slot)
            elif read.kind == "list" and part.isascii() and part.isdigit() and 1 <= int(part) <= MAX_MEMBERS:
                slot, below = int(part), read.item
            else:
                raise errors.UNKNOWN_PARAMETER(name=key)
            read = self._read(below)
        if read.kind in ("structure", "list"):
            if value:
                raise errors.UNKNOWN_PARAMETER(name=key)
            whole = ".".join(path)
            if not any(member == whole or member.startswith(f"{whole}.") for member in simulated):
                raise errors.NOT_SIMULATED(what=f"member {whole} of action {action}")
            node.setdefault(slot, {})  # an empty list, as some clients send it
            return
        member = ".".join(path)
        if member not in simulated:
            raise errors.NOT_SIMULATED(what=f"member {member} of action {action}")
        if slot in node:
            raise errors.INVALID_VALUE(value=value, name=key, why="Given twice.")
        node[slot] = _scalar(read, key, value)

    def _settle(self, node: Any, shape_name: str, path: str) -> Any:
        """Numbered items to lists, and what is required must be there."""
        read = self._read(shape_name)
        if read.kind == "list":
            return [self._settle(node[number], read.item, f"{path}.{number}") for number in sorted(node)]
        if read.kind != "structure":
            return node
        shapes = dict(read.members.values())
        for name in read.required:
            if name not in node:
                raise errors.MISSING_PARAMETER(name=f"{path}.{name}".lstrip("."))
        return {name: self._settle(value, shapes[name], f"{path}.{name}") for name, value in node.items()}

    def _read(self, shape_name: str) -> _Read:
        read = self._reads.get(shape_name)
        if read is None:
            shape = self._shapes[shape_name]
            read = _Read(
                shape["type"], enum=frozenset(shape.get("enum", ())), required=tuple(shape.get("required", ()))
            )
            for member, ref in shape.get("members", {}).items():
                name = ref.get("locationName", member)
                wire = ref.get("queryName") or name[:1].upper() + name[1:]
                read.members[wire] = (member, ref["shape"])
            if "member" in shape:
                read.item = shape["member"]["shape"]
            self._reads[shape_name] = read
        return read

    def members(self, action: str) -> list[str]:
        """Paths of all scalar members of a request that the model knows, for checks of what is simulated."""
        found: list[str] = []

        def walk(shape_name: str, path: str, above: tuple[str, ...]) -> None:
            read = self._read(shape_name)
            if shape_name in above:
                return
            if read.kind == "list":
                walk(read.item, path, (*above, shape_name))
            elif read.kind == "structure":
                for member, below in read.members.values():
                    walk(below, f"{path}.{member}".lstrip("."), (*above, shape_name))
            else:
                found.append(path)

        if "input" in self.operations[action]:
            walk(self.operations[action]["input"], "", ())
        return found

    # --- answers --------------------------------------------------------------------------------------------

    def answer(self, action: str, result: Mapping[str, Any], request_id: str) -> bytes:
        """The XML of an answer. Members that are None are left out; one that the model lacks is a KeyError."""
        parts = [
            f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{self.namespace}/">',
            f"<requestId>{request_id}</requestId>",
        ]
        shape = self.operations[action].get("output")
        if shape:
            self._writer(shape)(result, parts)
        elif result:
            raise KeyError(f"{action} has no answer, got {sorted(result)}")
        else:
            parts.append("<return>true</return>")
        parts.append(f"</{action}Response>")
        return "".join(parts).encode()

    def _writer(self, shape_name: str) -> Writer:
        """A function that writes the content of a shape."""
        writer = self._writers.get(shape_name)
        if writer is None:
            # A structure looks for the writers of its members when it is used, so shapes may contain themselves.
            shape = self._shapes[shape_name]
            if shape["type"] == "structure":
                writer = self._structure_writer(shape_name, shape)
            elif shape["type"] == "list":
                writer = _list_writer(
                    shape["member"].get("locationName", "member"), self._writer(shape["member"]["shape"])
                )
            else:
                writer = _SCALARS.get(shape["type"], _write_text)
            self._writers[shape_name] = writer
        return writer

    def _structure_writer(self, shape_name: str, shape: Mapping[str, Any]) -> Writer:
        plans = {
            member: (f"<{ref.get('locationName', member)}>", f"</{ref.get('locationName', member)}>", ref["shape"])
            for member, ref in shape["members"].items()
        }
        ready: dict[str, tuple[str, str, Writer]] = {}

        kept = self._kept

        def write(value: Any, out: list[str]) -> None:
            if type(value) is Kept:
                known = kept.get((shape_name, value.key))
                if known is None or not all(map(is_, known[0], value.records)):
                    parts: list[str] = []
                    write(value.make(), parts)
                    if len(kept) >= MOST_KEPT:
                        kept.clear()
                    known = kept[shape_name, value.key] = (value.records, "".join(parts))
                out.append(known[1])
                return
            for member, content in value.items():
                if content is None:
                    continue
                plan = ready.get(member)
                if plan is None:
                    if member not in plans:
                        raise KeyError(f"{shape_name} has no member {member}")
                    start, end, below = plans[member]
                    plan = ready[member] = (start, end, self._writer(below))
                out.append(plan[0])
                plan[2](content, out)
                out.append(plan[1])

        return write


def form_of(body: bytes) -> Form:
    """The pairs of a request's body. Raises INVALID_VALUE for what is no form."""
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=bool(body), errors="strict")
    except ValueError as damage:
        raise errors.INVALID_VALUE(value=body[:100], name="request", why=f"Not a form: {damage}.") from None


def error_answer(error: errors.Ec2Error, request_id: str) -> bytes:
    """The XML of a refusal, in the form that EC2 uses (EC2 API reference, "Example error response")."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{_text(error.code)}</Code><Message>{_text(error.text)}</Message>"
        f"</Error></Errors><RequestID>{request_id}</RequestID></Response>"
    ).encode()


def _scalar(read: _Read, key: str, value: str) -> object:
    kind = read.kind
    if kind in ("integer", "long"):
        # The last part of the wire key is what AWS names in such errors.
        digits = value[1:] if value[:1] == "-" else value
        if not digits.isascii() or not digits.isdigit() or len(digits) > 18:
            raise errors.INVALID_VALUE(value=value, name=key, why="Not an integer.")
        return int(value)
    if kind == "boolean":
        if value.lower() not in ("true", "false"):
            raise errors.INVALID_VALUE(value=value, name=key, why="Neither true nor false.")
        return value.lower() == "true"
    if kind == "blob":
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise errors.INVALID_VALUE(value=value, name=key, why="Not base64.") from None
    if kind not in ("string", "character"):
        raise errors.NOT_SIMULATED(what=f"a request member of type {kind} ({key})")
    if read.enum and value not in read.enum:
        raise errors.INVALID_VALUE(value=value, name=key, why=f"Not one of {', '.join(sorted(read.enum))[:200]}.")
    return value


def _text(value: str) -> str:
    if value.isalnum():
        return value
    return escape(value, _XML_UNSAFE)


def _list_writer(name: str, item: Writer) -> Writer:
    start, end = f"<{name}>", f"</{name}>"

    def write(value: Any, out: list[str]) -> None:
        for one in value:
            out.append(start)
            item(one, out)
            out.append(end)

    return write


def _write_text(value: Any, out: list[str]) -> None:
    out.append(_text(str(value)))


def _write_number(value: Any, out: list[str]) -> None:
    out.append(str(value))


def _write_boolean(value: Any, out: list[str]) -> None:
    out.append("true" if value else "false")


def _write_timestamp(value: Any, out: list[str]) -> None:
    out.append(timestamp(value))


def _write_blob(value: Any, out: list[str]) -> None:
    out.append(base64.b64encode(value).decode())


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as EC2 writes them: ISO 8601, UTC, whole seconds with three zeros."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


_SCALARS: Final[dict[str, Writer]] = {
    "boolean": _write_boolean,
    "integer": _write_number,
    "long": _write_number,
    "double": _write_number,
    "float": _write_number,
    "timestamp": _write_timestamp,
    "blob": _write_blob,
}
