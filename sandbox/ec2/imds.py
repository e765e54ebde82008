"""The instance metadata service, version 2: session tokens and the tree below /latest.

A node's programs take their own identity and ENIs from here, so the tree is complete for ENIs, and it is a view of
its own: it may lag behind the API or be made to fail by rule. The caller is known by its source address, as AWS knows
it by the network card. The hop limit is a property of packets: the answer that carries a token leaves with that
IP TTL, and so does everything after it on the connection, or a retransmission would get through (EC2 guide,
"Configure the instance metadata options").
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from sandbox.base.http import Request, Response
from sandbox.ec2.api import apply_fault
from sandbox.ec2.faults import When
from sandbox.ec2.records import Eni, Instance, Subnet
from sandbox.ec2.truth import Truth

TTL_HEADER: Final = "x-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER: Final = "x-aws-ec2-metadata-token"
TOKEN_PATH: Final = "/latest/api/token"
MOST_SECONDS: Final = 21_600  # EC2 guide: six hours
VERSIONS: Final = "latest"
Tree = dict[str, Any]  # name to text, Tree, or Lazy; None: not there


@dataclass(frozen=True, slots=True)
class Lazy:
    """A folder that is made when somebody looks into it: an ENI may hold thousands of addresses."""

    make: Callable[[], Tree]


@dataclass(frozen=True, slots=True)
class _Token:
    instance_id: str
    until: float


class Imds:
    """A handler for `http.serve`. `vpc_id` narrows down whose addresses callers have, if VPCs overlap.

    Fault rules see requests as actions named `imds:METHOD /path`.
    """

    def __init__(self, truth: Truth, *, vpc_id: str | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
        self.truth = truth
        self._vpc_id = vpc_id
        self._sleep = sleep
        self._rng = random.Random(truth.rng.getrandbits(64))
        self._tokens: dict[str, _Token] = {}

    def __call__(self, request: Request) -> Response:
        path = unquote(urlsplit(request.target).path)
        action = f"imds:{request.method} {path}"
        instance = self.truth.caller(request.peer, self._vpc_id)
        response = self._faulty(action, request.peer, instance, "before")
        if response is None:
            self.truth.tick()
            answer = self._answer(request, path, instance)
            response = self._faulty(action, request.peer, instance, "after") or answer
        return response

    def _faulty(self, action: str, peer: str, instance: Instance | None, when: When) -> Response | None:
        callers = (instance.instance_id, peer) if instance else (peer,)
        fault = self.truth.faults.hit(action, when, callers)
        return apply_fault(fault, self._sleep, lambda error: error.text.encode(), "text/plain") if fault else None

    def _answer(self, request: Request, path: str, instance: Instance | None) -> Response:
        if instance is None:
            return _refused(404)
        if path == TOKEN_PATH:
            return self._make_token(request, instance)
        if request.method not in ("GET", "HEAD"):
            return _refused(405)
        token = request.headers.get(TOKEN_HEADER)
        if token is None and instance.tokens_required:
            return _refused(401)
        if token is not None:
            known = self._tokens.get(token)
            if known is None or known.instance_id != instance.instance_id or known.until <= self.truth.clock.now():
                return _refused(401)
        with self.truth.lock:
            text = _find(self._tree(instance), path)
        if text is None:
            return _refused(404)
        kind = "application/json" if text.startswith("{") else "text/plain"
        return Response(200, text.encode(), kind)

    def _make_token(self, request: Request, instance: Instance) -> Response:
        """PUT with a lifetime of 1 to 21,600 s; none for requests that came through a proxy."""
        if request.method != "PUT":
            return _refused(405)
        if "x-forwarded-for" in request.headers:
            return _refused(403)
        seconds = request.headers.get(TTL_HEADER, "")
        if not seconds.isascii() or not seconds.isdigit() or not 1 <= int(seconds[:9]) <= MOST_SECONDS:
            return _refused(400)
        now = self.truth.clock.now()
        token = f"{self._rng.getrandbits(320):080x}=="
        with self.truth.lock:
            if len(self._tokens) > 4096:
                self._tokens = {text: known for text, known in self._tokens.items() if known.until > now}
            self._tokens[token] = _Token(instance.instance_id, now + int(seconds))
        return Response(200, token.encode(), headers={TTL_HEADER: seconds}, hops=instance.hop_limit)

    # --- the tree -------------------------------------------------------------------------------------------------

    def _tree(self, instance: Instance) -> Tree:
        truth = self.truth
        seen = truth.imds.see(instance.instance_id, instance) or instance
        enis = [eni for eni in truth.enis_of(instance.instance_id, truth.imds) if eni.plugged]
        primary = next((eni for eni in enis if eni.device == 0 and eni.card == 0), None)
        several_cards = len(truth.types.get(instance.instance_type).cards) > 1
        macs: Tree = {
            eni.mac: Lazy(partial(self._eni, eni, several_cards)) for eni in sorted(enis, key=lambda eni: eni.mac)
        }
        name = _host_name(seen.private_ip, truth.region)
        meta: Tree = {
            "ami-id": seen.image_id,
            "ami-launch-index": "0",
            "hostname": name,
            "instance-action": "none",
            "instance-id": seen.instance_id,
            "instance-life-cycle": "on-demand",
            "instance-type": seen.instance_type,
            "local-hostname": name,
            "local-ipv4": seen.private_ip,
            "mac": primary.mac if primary else None,
            "ipv6": primary.ipv6_addresses[0] if primary and primary.ipv6_addresses else None,
            "network": {"interfaces": {"macs": macs}},
            "placement": {
                "availability-zone": seen.zone,
                "availability-zone-id": truth.subnet(seen.subnet_id).zone_id,
                "region": truth.region,
            },
            "reservation-id": seen.reservation_id,
            "security-groups": "\n".join(truth.groups[group].name for group in primary.groups) if primary else None,
            "services": {"domain": "amazonaws.com", "partition": "aws"},
        }
        dynamic: Tree = {"instance-identity": Lazy(lambda: {"document": self._document(seen)})}
        latest: Tree = {"dynamic": dynamic, "meta-data": meta}
        if seen.user_data:
            latest["user-data"] = seen.user_data.decode("utf-8", "replace")
        return {VERSIONS: latest}

    def _eni(self, eni: Eni, several_cards: bool) -> Tree:
        """One MAC's folder; what an ENI has none of is not listed (EC2 guide, instance metadata categories)."""
        truth = self.truth
        subnet: Subnet = truth.subnet(eni.subnet_id)
        vpc = truth.vpc(eni.vpc_id)
        tree: Tree = {
            "device-number": str(eni.device),
            "interface-id": eni.eni_id,
            "ipv4-prefix": "\n".join(eni.prefixes) or None,
            "ipv6-prefix": "\n".join(eni.ipv6_prefixes) or None,
            "ipv6s": "\n".join(eni.ipv6_addresses) or None,
            "local-hostname": _host_name(eni.primary_ip, truth.region),
            "local-ipv4s": "\n".join(eni.addresses),
            "mac": eni.mac,
            "network-card": str(eni.card) if several_cards else None,
            "owner-id": truth.account,
            "security-group-ids": "\n".join(eni.groups),
            "security-groups": "\n".join(truth.groups[group].name for group in eni.groups),
            "subnet-id": subnet.subnet_id,
            "subnet-ipv4-cidr-block": str(subnet.cidr),
            "subnet-ipv6-cidr-blocks": str(subnet.ipv6_cidr) if subnet.ipv6_cidr else None,
            "vpc-id": vpc.vpc_id,
            "vpc-ipv4-cidr-block": str(vpc.cidrs[0]),
            "vpc-ipv4-cidr-blocks": "\n".join(map(str, vpc.cidrs)),
            "vpc-ipv6-cidr-blocks": "\n".join(map(str, vpc.ipv6_cidrs)) or None,
        }
        return {name: text for name, text in tree.items() if text is not None}

    def _document(self, instance: Instance) -> str:
        """The instance identity document (EC2 guide, "Instance identity documents"); it is not signed here."""
        truth = self.truth
        pending = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(instance.launched_at))
        document = {
            "accountId": truth.account,
            "architecture": truth.types.get(instance.instance_type).architectures[0],
            "availabilityZone": instance.zone,
            "billingProducts": None,
            "devpayProductCodes": None,
            "imageId": instance.image_id,
            "instanceId": instance.instance_id,
            "instanceType": instance.instance_type,
            "kernelId": None,
            "marketplaceProductCodes": None,
            "pendingTime": pending,
            "privateIp": instance.private_ip,
            "ramdiskId": None,
            "region": truth.region,
            "version": "2017-09-30",
        }
        return json.dumps(document, indent=2)


def _host_name(address: str, region: str) -> str:
    domain = "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"
    return f"ip-{address.replace('.', '-')}.{domain}"


def _find(tree: Tree, path: str) -> str | None:
    """The text at a path: a leaf, or a folder's listing; None if there is none.

    Listings mark folders with `/`, but not at the top, as AWS does; a slash behind a path changes nothing.
    """
    node: Any = tree
    parts = [part for part in path.split("/") if part]
    for part in parts:
        if not isinstance(node, dict) or node.get(part) is None:
            return None
        node = node[part]
        if isinstance(node, Lazy):
            node = node.make()
    if not isinstance(node, dict):
        return str(node)
    mark = "/" if len(parts) > 1 else ""
    return "\n".join(
        f"{name}{mark}" if isinstance(below, dict | Lazy) else name for name, below in node.items() if below is not None
    )


def _refused(status: int) -> Response:
    """The small HTML page that the service answers with."""
    title = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Not Allowed"}[status]
    page = f"<html><head><title>{status} - {title}</title></head><body><h1>{status} - {title}</h1></body></html>\n"
    return Response(status, page.encode(), "text/html")
