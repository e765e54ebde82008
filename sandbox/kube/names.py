"""What names, labels and annotations may be (k8s.io/apimachinery pkg/util/validation; RFC 1123, RFC 1035).

Each check gives the API server's sentences about what is wrong; an empty list is approval.
"""

from __future__ import annotations

import re
from typing import Final

_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_DNS_LABEL: Final = re.compile(_LABEL)
_QUALIFIED: Final = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
MAX_ANNOTATIONS: Final = 256 << 10
_QUALIFIED_TEXT: Final = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


def subdomain_problems(text: str) -> list[str]:
    """RFC 1123 subdomain: what most objects are named by."""
    found = ["must be no more than 253 bytes"] if len(text) > 253 else []
    if not _SUBDOMAIN.fullmatch(text):
        found.append(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
            "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
            "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        )
    return found


def dns_label_problems(text: str) -> list[str]:
    """RFC 1123 label: namespaces."""
    found = ["must be no more than 63 bytes"] if len(text) > 63 else []
    if not _DNS_LABEL.fullmatch(text):
        found.append(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
            "end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
            "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        )
    return found


def service_name_problems(text: str) -> list[str]:
    """RFC 1035 label: services."""
    found = ["must be no more than 63 bytes"] if len(text) > 63 else []
    if not re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", text):
        found.append(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
            "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for "
            "validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
        )
    return found


def label_key_problems(text: str) -> list[str]:
    """A qualified name: an optional subdomain, `/`, and 63 characters at most."""
    prefix, slash, name = text.rpartition("/")
    found: list[str] = []
    if slash:
        found += (
            [f"prefix part {problem}" for problem in subdomain_problems(prefix)]
            if prefix
            else ["prefix part must be non-empty"]
        )
    if not name:
        return [*found, "name part must be non-empty"]
    if len(name) > 63:
        found.append("name part must be no more than 63 bytes")
    if not _QUALIFIED.fullmatch(name):
        found.append(_QUALIFIED_TEXT)
    return found


def label_value_problems(text: str) -> list[str]:
    found = ["must be no more than 63 bytes"] if len(text) > 63 else []
    if text and not _QUALIFIED.fullmatch(text):
        found.append(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
            "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
            "validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        )
    return found
