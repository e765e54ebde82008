"""What is wrong with an object beyond its metadata, by resource.

A part of the API server's own checks (k8s.io/kubernetes pkg/apis/*/validation): those that a controller, a scheduler
or a network plugin runs into. Custom resources are checked by their schema.
"""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from sandbox.kube import builtin, definitions, errors, metadata, structural
from sandbox.kube.errors import Cause, forbidden_field, invalid_value, required, unsupported_value
from sandbox.kube.kinds import Kind, Object, Resource

_POD_MAY_CHANGE: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
PROTOCOLS: Final = ("TCP", "UDP", "SCTP")


def decoded(kind: Kind, given: Mapping[str, Any], strict: str) -> tuple[Object, list[str]]:
    """The object as the server takes it up, and its warnings. `strict`: Strict, Warn, Ignore. Raises KubeError 400."""
    for key, name, wanted in (("kind", "kind", kind.kind), ("apiVersion", "API version", kind.api_version)):
        if given.get(key) not in (None, "", wanted):
            raise errors.bad_request(
                f"the {name} in the data ({given[key]}) does not match the expected {name} ({wanted})"
            )
        if kind.custom and not given.get(key):
            raise errors.bad_request(f"Object '{key}' is missing in the body of the request")
    thing = copy.deepcopy(dict(given))
    unknown = []
    if isinstance(thing.get("metadata"), dict):
        unknown = metadata.unknown_fields(thing)
        for field in unknown:
            del thing["metadata"][field.partition(".")[2]]
    if kind.schema is not None:
        thing, more = structural.prune(kind.schema, thing)
        unknown += more
        structural.fill(kind.schema, thing)
    else:
        thing, more = builtin.prune(kind, thing)
        unknown += more
    listed = [f'unknown field "{field}"' for field in unknown]
    if listed and strict == "Strict":
        raise errors.bad_request(f"strict decoding error: {', '.join(listed)}")
    return thing, listed if strict != "Ignore" else []


def check(kind: Kind, old: Mapping[str, Any] | None, new: Object) -> None:
    """Raises KubeError 422 with a cause per fault."""
    found: list[Cause] = []
    if kind.schema is not None:
        body = {key: value for key, value in new.items() if key not in ("apiVersion", "kind", "metadata")}
        found = structural.check(kind.schema, body, "")
    checker = _CHECKERS.get(kind.resource)
    if checker is not None:
        found = checker(old, new)
    if found:
        raise errors.invalid(kind.kind, new["metadata"].get("name", ""), found, kind.group)


def _spec(thing: Mapping[str, Any] | None) -> Mapping[str, Any]:
    found = (thing or {}).get("spec")
    return found if isinstance(found, Mapping) else {}


def _pod(old: Mapping[str, Any] | None, new: Object) -> list[Cause]:
    spec = _spec(new)
    if old is None:
        containers = spec.get("containers")
        if not isinstance(containers, list) or not containers:
            return [required("spec.containers")]
        found = []
        seen: set[str] = set()
        for index, container in enumerate(containers):
            name = container.get("name") if isinstance(container, Mapping) else None
            if not name:
                found.append(required(f"spec.containers[{index}].name"))
            elif name in seen:
                found.append(
                    Cause("FieldValueDuplicate", f"spec.containers[{index}].name", f'Duplicate value: "{name}"')
                )
            seen.add(str(name))
        return found
    if _unchangeable(spec) != _unchangeable(_spec(old)):
        return [forbidden_field("spec", _POD_MAY_CHANGE)]
    return []


def _unchangeable(spec: Mapping[str, Any]) -> dict[str, Any]:
    free = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates")
    kept = {key: value for key, value in spec.items() if key not in free}
    for key in ("containers", "initContainers"):
        if isinstance(kept.get(key), list):
            kept[key] = [
                {k: v for k, v in entry.items() if k != "image"} for entry in kept[key] if isinstance(entry, dict)
            ]
    return kept


def _node(old: Mapping[str, Any] | None, new: Object) -> list[Cause]:
    was, now = _spec(old).get("providerID"), _spec(new).get("providerID")
    if was and was != now:
        return [forbidden_field("spec.providerID", 'node updates may not change providerID except from "" to valid')]
    found = []
    for index, taint in enumerate(_spec(new).get("taints") or ()):
        if taint.get("effect") not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
            known = ["NoSchedule", "PreferNoSchedule", "NoExecute"]
            found.append(unsupported_value(f"spec.taints[{index}].effect", taint.get("effect", ""), known))
    return found


def _lease(_: Mapping[str, Any] | None, new: Object) -> list[Cause]:
    spec = _spec(new)
    found = []
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if duration is not None and (not isinstance(duration, int) or duration <= 0):
        found.append(invalid_value("spec.leaseDurationSeconds", duration, "must be greater than 0"))
    if transitions is not None and (not isinstance(transitions, int) or transitions < 0):
        found.append(invalid_value("spec.leaseTransitions", transitions, "must be greater than or equal to 0"))
    if spec.get("holderIdentity") == "":
        found.append(invalid_value("spec.holderIdentity", "", "must not be empty"))
    return found


def _service(_: Mapping[str, Any] | None, new: Object) -> list[Cause]:
    spec = _spec(new)
    if not spec.get("ports") and spec.get("type") != "ExternalName" and spec.get("clusterIP") != "None":
        return [required("spec.ports")]
    return _ports(spec.get("ports") or (), "spec.ports", "port")


def _ports(ports: Any, path: str, key: str) -> list[Cause]:
    found = []
    for index, port in enumerate(ports):
        number = port.get(key)
        if number is not None and (not isinstance(number, int) or not 1 <= number <= 65535):
            found.append(invalid_value(f"{path}[{index}].{key}", number, "must be between 1 and 65535, inclusive"))
        if port.get("protocol", "TCP") not in PROTOCOLS:
            found.append(unsupported_value(f"{path}[{index}].protocol", port["protocol"], sorted(PROTOCOLS)))
    return found


def _slice(old: Mapping[str, Any] | None, new: Object) -> list[Cause]:
    kind = new.get("addressType")
    if kind not in ("IPv4", "IPv6", "FQDN"):
        return [unsupported_value("addressType", kind or "", ["FQDN", "IPv4", "IPv6"])]
    if old is not None and old.get("addressType") != kind:
        return [invalid_value("addressType", kind, "field is immutable")]
    found = []
    for index, endpoint in enumerate(new.get("endpoints") or ()):
        addresses = endpoint.get("addresses") or ()
        if not addresses:
            found.append(required(f"endpoints[{index}].addresses", "must contain at least 1 address"))
        for place, address in enumerate(addresses if kind != "FQDN" else ()):
            if not _is_address(address, 4 if kind == "IPv4" else 6):
                path = f"endpoints[{index}].addresses[{place}]"
                found.append(invalid_value(path, address, f"must be an {kind} address"))
    return found


def _is_address(text: object, version: int) -> bool:
    try:
        return ipaddress.ip_address(str(text)).version == version
    except ValueError:
        return False


def _network_policy(_: Mapping[str, Any] | None, new: Object) -> list[Cause]:
    found = []
    for way, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(_spec(new).get(way) or ()):
            found += _ports_of_policy(rule.get("ports") or (), f"spec.{way}[{index}].ports")
            for place, peer in enumerate(rule.get(peers) or ()):
                path = f"spec.{way}[{index}].{peers}[{place}]"
                if not peer:
                    found.append(required(path, "must specify a peer"))
                elif "ipBlock" in peer:
                    found += _block(peer, path)
    for kind in _spec(new).get("policyTypes") or ():
        if kind not in ("Ingress", "Egress"):
            found.append(unsupported_value("spec.policyTypes", kind, ["Egress", "Ingress"]))
    return found


def _ports_of_policy(ports: Any, path: str) -> list[Cause]:
    found = []
    for index, port in enumerate(ports):
        number, end = port.get("port"), port.get("endPort")
        if isinstance(number, int) and not 1 <= number <= 65535:
            found.append(invalid_value(f"{path}[{index}].port", number, "must be between 1 and 65535, inclusive"))
        if end is not None and (not isinstance(number, int) or end < number):
            found.append(invalid_value(f"{path}[{index}].endPort", end, "must be greater than or equal to `port`"))
        if port.get("protocol", "TCP") not in PROTOCOLS:
            found.append(unsupported_value(f"{path}[{index}].protocol", port["protocol"], sorted(PROTOCOLS)))
    return found


def _block(peer: Mapping[str, Any], path: str) -> list[Cause]:
    if len(peer) > 1:
        return [forbidden_field(path, "may not specify both ipBlock and another peer")]
    try:
        outer = ipaddress.ip_network(peer["ipBlock"].get("cidr", ""), strict=False)
    except ValueError:
        return [invalid_value(f"{path}.ipBlock.cidr", peer["ipBlock"].get("cidr", ""), "not a valid CIDR")]
    found = []
    for index, text in enumerate(peer["ipBlock"].get("except") or ()):
        try:
            inner = ipaddress.ip_network(text, strict=False)
            inside = inner.version == outer.version and inner != outer and inner.subnet_of(outer)  # type: ignore[arg-type]
        except ValueError:
            inside = False
        if not inside:
            text_of = f"must be a strict subset of `{outer}`"
            found.append(invalid_value(f"{path}.ipBlock.except[{index}]", text, text_of))
    return found


def _webhooks(_: Mapping[str, Any] | None, new: Object) -> list[Cause]:
    found = []
    for index, hook in enumerate(new.get("webhooks") or ()):
        path = f"webhooks[{index}]"
        if str(hook.get("name", "")).count(".") < 2:
            found.append(
                invalid_value(
                    f"{path}.name",
                    hook.get("name", ""),
                    "should be a domain with at least three segments separated by dots",
                )
            )
        if hook.get("sideEffects") not in ("None", "NoneOnDryRun"):
            found.append(
                unsupported_value(f"{path}.sideEffects", hook.get("sideEffects", ""), ["None", "NoneOnDryRun"])
            )
        if "v1" not in (hook.get("admissionReviewVersions") or ()):
            found.append(
                invalid_value(
                    f"{path}.admissionReviewVersions",
                    hook.get("admissionReviewVersions"),
                    "must include at least one of v1, v1beta1; not simulated: v1beta1",
                )
            )
        if hook.get("failurePolicy") not in ("Fail", "Ignore"):
            found.append(unsupported_value(f"{path}.failurePolicy", hook.get("failurePolicy"), ["Fail", "Ignore"]))
        timeout = hook.get("timeoutSeconds")
        if not isinstance(timeout, int) or not 1 <= timeout <= 30:
            found.append(
                invalid_value(f"{path}.timeoutSeconds", timeout, "the timeout value must be between 1 and 30 seconds")
            )
        where = hook.get("clientConfig") or {}
        if "service" in where:
            found.append(forbidden_field(f"{path}.clientConfig.service", "not simulated: give a url"))
        elif urlsplit(str(where.get("url", ""))).scheme not in ("http", "https"):
            found.append(required(f"{path}.clientConfig.url", "exactly one of url or service is required"))
        for key, text in (("matchConditions", "CEL"), ("reinvocationPolicy", "IfNeeded")):
            if hook.get(key) and hook[key] != "Never":
                found.append(forbidden_field(f"{path}.{key}", f"not simulated: {text}"))
    return found


_CHECKERS: Final[Mapping[Resource, Callable[[Mapping[str, Any] | None, Object], list[Cause]]]] = {
    ("", "pods"): _pod,
    ("", "nodes"): _node,
    ("", "services"): _service,
    ("coordination.k8s.io", "leases"): _lease,
    ("discovery.k8s.io", "endpointslices"): _slice,
    ("networking.k8s.io", "networkpolicies"): _network_policy,
    definitions.RESOURCE: lambda _, new: definitions.check(new),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): _webhooks,
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"): _webhooks,
}
