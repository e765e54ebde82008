"""Failures as the Kubernetes API tells them: an HTTP status and a `Status` object.

Reasons and texts are those of the API server (k8s.io/apimachinery, pkg/api/errors; causes: pkg/util/validation/field).
What the stand-in does not model is refused with `not_simulated`, which names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

NOWHERE: Final = "the server could not find the requested resource"


@dataclass(frozen=True)
class Cause:
    """One wrong field. `reason` as in k8s.io/apimachinery field.ErrorType, e.g. FieldValueInvalid."""

    reason: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class KubeError(Exception):
    """A failure as the API tells it: HTTP status, reason, text; `details` as in meta/v1 StatusDetails."""

    def __init__(
        self,
        status: int,
        reason: str,
        text: str,
        *,
        details: Mapping[str, Any] | None = None,
        causes: Sequence[Cause] = (),
        retry_after: int = 0,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason
        self.text = text
        self.details = dict(details or {})
        self.causes = tuple(causes)
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The Status object."""
        details = dict(self.details)
        if self.causes:
            details["causes"] = [{key: value for key, value in vars(cause).items() if value} for cause in self.causes]
        if self.retry_after:
            details["retryAfterSeconds"] = self.retry_after
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.text,
            "reason": self.reason,
            "code": self.status,
        }
        if details:
            body["details"] = details
        return body


def required(field: str, text: str = "") -> Cause:
    return Cause("FieldValueRequired", field, "Required value" + (f": {text}" if text else ""))


def invalid_value(field: str, value: object, text: str) -> Cause:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Cause("FieldValueInvalid", field, f"Invalid value: {shown}: {text}")


def forbidden_field(field: str, text: str) -> Cause:
    return Cause("FieldValueForbidden", field, f"Forbidden: {text}")


def unsupported_value(field: str, value: object, known: Sequence[str]) -> Cause:
    shown = ", ".join(f'"{entry}"' for entry in known)
    return Cause("FieldValueNotSupported", field, f'Unsupported value: "{value}": supported values: {shown}')


def bad_request(text: str) -> KubeError:
    return KubeError(400, "BadRequest", text)


def not_simulated(text: str) -> KubeError:
    """For what the real server would take and the stand-in does not model."""
    return KubeError(400, "BadRequest", f"not simulated: {text}")


def not_found(plural: str, name: str, group: str = "") -> KubeError:
    details = {"name": name, "kind": plural, **({"group": group} if group else {})}
    shown = f"{plural}.{group}" if group else plural
    return KubeError(404, "NotFound", f'{shown} "{name}" not found', details=details)


def nowhere() -> KubeError:
    """The path or the resource does not exist."""
    return KubeError(404, "NotFound", NOWHERE)


def already_exists(plural: str, name: str, group: str = "") -> KubeError:
    details = {"name": name, "kind": plural, **({"group": group} if group else {})}
    shown = f"{plural}.{group}" if group else plural
    return KubeError(409, "AlreadyExists", f'{shown} "{name}" already exists', details=details)


def conflict(plural: str, name: str, text: str, group: str = "") -> KubeError:
    details = {"name": name, "kind": plural, **({"group": group} if group else {})}
    shown = f"{plural}.{group}" if group else plural
    return KubeError(409, "Conflict", f'Operation cannot be fulfilled on {shown} "{name}": {text}', details=details)


def invalid(kind: str, name: str, causes: Sequence[Cause], group: str = "") -> KubeError:
    """422 with one cause per wrong field."""
    shown = f"{kind}.{group}" if group else kind
    text = str(causes[0]) if len(causes) == 1 else "[" + ", ".join(map(str, causes)) + "]"
    details = {"name": name, "kind": kind, **({"group": group} if group else {})}
    return KubeError(422, "Invalid", f'{shown} "{name}" is invalid: {text}', details=details, causes=causes)


def method_not_allowed() -> KubeError:
    return KubeError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def expired(asked: int, oldest: int) -> KubeError:
    return KubeError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def too_large(asked: int, current: int) -> KubeError:
    cause = Cause("ResourceVersionTooLarge", "", "Too large resource version")
    text = f"Timeout: Too large resource version: {asked}, current: {current}"
    return KubeError(504, "Timeout", text, causes=[cause], retry_after=1)


def media_type(got: str, accepted: Sequence[str]) -> KubeError:
    text = f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
    return KubeError(415, "UnsupportedMediaType", f"{text}; got {got!r}")
