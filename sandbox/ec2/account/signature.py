"""Whether a request is signed by whom it says, by Signature Version 4 (IAM guide, "Create a signed AWS API request").

Programs that forget to sign, sign with another's secret, or sign for another region work against a simulator that does
not look, and fail in AWS. Checking is small and needs no library in the daemon; the tests let botocore sign.
"""

from __future__ import annotations

import calendar
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

from sandbox.base.http import Request
from sandbox.ec2 import errors

ALGORITHM: Final = "AWS4-HMAC-SHA256"
MOST_SKEW: Final = 900.0  # EC2 API reference, RequestExpired: 15 minutes
_HEADER: Final = re.compile(r"AWS4-HMAC-SHA256 Credential=([^, ]+), ?SignedHeaders=([^, ]+), ?Signature=([0-9a-f]{64})")
_DATE: Final = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Credential:
    """A key pair of the account. `session`: the token that must come with it; empty for long-term keys."""

    access_key: str
    secret: str
    session: str = ""


@dataclass(frozen=True, slots=True)
class Signed:
    """What a request says of its signature."""

    access_key: str
    date: str
    scope: str
    headers: tuple[str, ...]
    signature: str
    time: str
    session: str
    query: bool


def checked(
    request: Request, keys: Mapping[str, Credential], region: str, wall: Callable[[], float] = time.time
) -> Credential:
    """The key that a request is signed with. `wall` tells the time of clients, seconds since 1970.

    Raises NO_SIGNATURE, BAD_SIGNATURE_FORM, UNKNOWN_KEY, UNKNOWN_SESSION, EXPIRED, WRONG_SCOPE, WRONG_SIGNATURE.
    """
    signed = _signed(request)
    key = keys.get(signed.access_key)
    if key is None:
        raise errors.UNKNOWN_KEY()
    if key.session != signed.session:
        raise errors.UNKNOWN_SESSION()
    try:
        when = calendar.timegm(time.strptime(signed.time, _DATE))
    except ValueError:
        raise errors.BAD_SIGNATURE_FORM(why=f"Date must be in ISO-8601 'basic format'. Got '{signed.time}'.") from None
    if abs(wall() - when) > MOST_SKEW:
        raise errors.EXPIRED(date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)))
    if signed.scope != f"{region}/ec2/aws4_request" or not signed.time.startswith(signed.date):
        raise errors.WRONG_SCOPE(scope=f"{signed.date}/{signed.scope}")
    if "host" not in signed.headers or not {"authorization"}.isdisjoint(signed.headers):
        raise errors.BAD_SIGNATURE_FORM(why="'Host' must be a 'SignedHeader' in the AWS Authorization.")
    text = "\n".join((ALGORITHM, signed.time, f"{signed.date}/{signed.scope}", _digest(_canonical(request, signed))))
    ours = hmac.new(_signing_key(key.secret, signed.date, region), text.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(ours, signed.signature):
        raise errors.WRONG_SIGNATURE()
    return key


def _signed(request: Request) -> Signed:
    header = request.headers.get("authorization")
    if header is not None:
        found = _HEADER.fullmatch(header.strip())
        if found is None:
            raise errors.BAD_SIGNATURE_FORM(
                why="Authorization header requires 'Credential', 'SignedHeaders', 'Signature'."
            )
        credential, names, signature = found.groups()
        moment, session = request.headers.get("x-amz-date", ""), request.headers.get("x-amz-security-token", "")
    else:
        query = dict(parse_qsl(urlsplit(request.target).query))
        if query.get("X-Amz-Algorithm") != ALGORITHM:
            raise errors.NO_SIGNATURE()
        credential, names = query.get("X-Amz-Credential", ""), query.get("X-Amz-SignedHeaders", "")
        signature, moment = query.get("X-Amz-Signature", ""), query.get("X-Amz-Date", "")
        session = query.get("X-Amz-Security-Token", "")
    access_key, _, rest = credential.partition("/")
    date, _, scope = rest.partition("/")
    if scope.count("/") != 2:
        raise errors.BAD_SIGNATURE_FORM(
            why=f"Credential must have exactly 5 slash-delimited elements, got '{credential}'."
        )
    return Signed(access_key, date, scope, tuple(names.split(";")), signature, moment, session, header is None)


def _canonical(request: Request, signed: Signed) -> str:
    parts = urlsplit(request.target)
    pairs = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if not (signed.query and name == "X-Amz-Signature")
    )
    lines = [
        request.method,
        quote(parts.path or "/", safe="/-_.~%"),
        "&".join(f"{name}={value}" for name, value in pairs),
        *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in signed.headers),
        "",
        ";".join(signed.headers),
        hashlib.sha256(request.body).hexdigest(),
    ]
    return "\n".join(lines)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=256)
def _signing_key(secret: str, date: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (date, region, "ec2", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
