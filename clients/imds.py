"""The instance metadata service, version 2: who this instance is, and which ENIs it seems to have.

IMDS is on the node, needs no permission and costs no EC2 call, but it lags behind EC2 and lies for seconds. So it
says who we are, and hints that something has changed; what happens to an address is decided by EC2's word alone.
Every answer is checked: nonsense is an error that names the key, never a value (IPAM specification, 4).
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import random
import re
import threading
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from clients.clock import Clock, SystemClock
from clients.deadline import cut_after
from core.errors import ImdsError

TOKEN_TTL_S: Final = 21600
TRIES: Final = 4
FIRST_WAIT_S: Final = 0.1
MAX_ANSWER: Final = 1 << 20
MACS: Final = "meta-data/network/interfaces/macs"

_ID: Final = re.compile(r"[a-z]+-[0-9a-f]{1,32}")
_MAC: Final = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_WORD: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Identity:
    """What does not change while the instance runs. Addresses are text."""

    region: str
    zone: str
    instance_id: str
    instance_type: str
    mac: str
    eni_id: str
    subnet_id: str
    vpc_id: str
    address: str
    subnet_cidr: str


@dataclass(frozen=True, slots=True)
class ImdsEni:
    """One ENI as IMDS lists it now; the first of `addresses` is the primary one."""

    mac: str
    eni_id: str
    addresses: tuple[str, ...]


class Imds:
    """The service at `endpoint`. `timeout` bounds a whole request; failures that may pass are tried TRIES times.

    All methods raise ImdsError. Safe for several threads: each call has a connection of its own.
    """

    def __init__(
        self, endpoint: str, timeout: float, clock: Clock | None = None, rng: random.Random | None = None
    ) -> None:
        parts = urlsplit(endpoint)
        self._endpoint = endpoint
        self._secure = parts.scheme == "https"
        self._host = parts.netloc
        self._path = parts.path.rstrip("/")
        self._timeout = timeout
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._lock = threading.Lock()
        self._token: str | None = None

    def identity(self) -> Identity:
        """Who this instance is."""
        mac = self._mac(self._need("meta-data/mac"), "meta-data/mac")
        below = f"{MACS}/{mac}"
        return Identity(
            region=self._region(),
            zone=self._word("meta-data/placement/availability-zone"),
            instance_id=self._id("meta-data/instance-id"),
            instance_type=self._word("meta-data/instance-type"),
            mac=mac,
            eni_id=self._id(f"{below}/interface-id"),
            subnet_id=self._id(f"{below}/subnet-id"),
            vpc_id=self._id(f"{below}/vpc-id"),
            address=self._addresses(self._need("meta-data/local-ipv4"), "meta-data/local-ipv4")[0],
            subnet_cidr=self.subnet_cidr(mac),
        )

    def subnet_cidr(self, mac: str) -> str:
        """The IPv4 network of the subnet of this ENI."""
        path = f"{MACS}/{mac}/subnet-ipv4-cidr-block"
        text = self._need(path)
        try:
            return str(ipaddress.IPv4Network(text))
        except ValueError as error:
            raise self._nonsense(path, text) from error

    def vpc_cidrs(self, mac: str) -> tuple[str, ...]:
        """The IPv4 networks of the VPC of this ENI, sorted; never empty."""
        path = f"{MACS}/{mac}/vpc-ipv4-cidr-blocks"
        found = set()
        for text in self._need(path).split():
            try:
                found.add(str(ipaddress.IPv4Network(text)))
            except ValueError as error:
                raise self._nonsense(path, text) from error
        if not found:
            raise self._nonsense(path, "")
        return tuple(sorted(found))

    def security_groups(self, mac: str) -> tuple[str, ...]:
        """The security groups of this ENI, sorted."""
        path = f"{MACS}/{mac}/security-group-ids"
        groups = tuple(sorted(self._need(path).split()))
        if not groups or not all(_ID.fullmatch(group) for group in groups):
            raise self._nonsense(path, " ".join(groups))
        return groups

    def enis(self) -> tuple[ImdsEni, ...]:
        """All ENIs that IMDS lists now, by MAC. An ENI that goes away meanwhile is left out."""
        found = []
        for entry in self._need(MACS).split():
            mac = self._mac(entry.rstrip("/"), MACS)
            eni_id = self._get(f"{MACS}/{mac}/interface-id")
            if eni_id is None:
                continue
            if not _ID.fullmatch(eni_id):
                raise self._nonsense(f"{MACS}/{mac}/interface-id", eni_id)
            path = f"{MACS}/{mac}/local-ipv4s"
            found.append(ImdsEni(mac, eni_id, self._addresses(self._get(path) or "", path)))
        return tuple(sorted(found, key=lambda eni: eni.mac))

    # --- values -----------------------------------------------------------------------------------------

    def _region(self) -> str:
        path = "dynamic/instance-identity/document"
        text = self._get(path)
        if text is None:
            return self._word("meta-data/placement/region")
        try:
            region = json.loads(text)["region"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._nonsense(path, text) from error
        if not isinstance(region, str) or not _WORD.fullmatch(region):
            raise self._nonsense(path, text)
        return region

    def _word(self, path: str) -> str:
        text = self._need(path)
        if not _WORD.fullmatch(text):
            raise self._nonsense(path, text)
        return text

    def _id(self, path: str) -> str:
        text = self._need(path)
        if not _ID.fullmatch(text):
            raise self._nonsense(path, text)
        return text

    def _mac(self, text: str, path: str) -> str:
        if not _MAC.fullmatch(text):
            raise self._nonsense(path, text)
        return text

    def _addresses(self, text: str, path: str) -> tuple[str, ...]:
        try:
            return tuple(str(ipaddress.IPv4Address(word)) for word in text.split())
        except ValueError as error:
            raise self._nonsense(path, text) from error

    def _nonsense(self, path: str, text: str) -> ImdsError:
        return ImdsError(f"IMDS answers nonsense for {path}: {text[:80]!r}")

    def _need(self, path: str) -> str:
        text = self._get(path)
        if text is None or not text.strip():
            raise ImdsError(f"IMDS has no {path}", cause=self._endpoint)
        return text.strip()

    # --- requests ---------------------------------------------------------------------------------------

    def _get(self, path: str) -> str | None:
        """The text at a path, None for 404. A token that is refused is replaced once."""
        wait = FIRST_WAIT_S
        last = ""
        for attempt in range(TRIES):
            if attempt:
                self._clock.sleep(wait * (1 + self._rng.random()))
                wait *= 2
            try:
                status, body = self._request("GET", path, {"X-aws-ec2-metadata-token": self._current_token()})
                if status == 401:
                    self._forget_token()
                    status, body = self._request("GET", path, {"X-aws-ec2-metadata-token": self._current_token()})
            except (OSError, http.client.HTTPException, _NoToken) as error:
                last = str(error) or type(error).__name__
                continue
            if status == 404:
                return None
            if status == 200:
                try:
                    return body.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise self._nonsense(path, repr(body)) from error
            last = f"HTTP {status}"
            if 400 <= status < 500 and status not in (401, 429):
                break
        raise ImdsError(f"IMDS does not answer for {path}", cause=f"{self._endpoint}: {last}", retry_after=wait)

    def _current_token(self) -> str:
        with self._lock:
            if self._token is None:
                headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_S)}
                status, body = self._request("PUT", "api/token", headers)
                token = body.decode("ascii", "replace").strip()
                if status != 200 or not token.isprintable() or not 0 < len(token) < 1024:
                    raise _NoToken(f"no session token: HTTP {status}")
                self._token = token
            return self._token

    def _forget_token(self) -> None:
        with self._lock:
            self._token = None

    def _request(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, timeout=self._timeout)
        try:
            with cut_after(self._timeout) as cut:
                cut.connection = connection
                connection.request(method, f"{self._path}/latest/{path}", headers=headers)
                response = connection.getresponse()
                body = response.read(MAX_ANSWER)
            if cut.happened:
                raise TimeoutError(f"cut off after {self._timeout:g} s")
            return response.status, body
        finally:
            connection.close()


class _NoToken(Exception):
    """The token endpoint refused; may pass."""
