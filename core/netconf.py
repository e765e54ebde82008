"""What the runtime asks for: the plugin's configuration and its CNI variables, checked.

All bad input of a request is found here, before anything is touched, and told with the field, the value and the
rule. The decoders are made once; a good request is decoded in a few microseconds.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from core.errors import BadEnvironment, BadNetworkConfig, BadRequest, UnsupportedVersion
from core.names import DEFAULT_VETH_PREFIX

VERSIONS: Final = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
DEFAULT_MTU: Final = 9001
MIN_MTU: Final = 576
MAX_PREFIX: Final = 4
MULTI_NIC: Final = "multi-nic-attachment"
NIC_ANNOTATION: Final = "k8s.amazonaws.com/nicConfig"

# CNI specification 1.1, "Parameters" and "Configuration format".
_ID: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,252}").fullmatch
_NETWORK: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,252}").fullmatch
_IFNAME: Final = re.compile(r"[^/:\s\x00-\x1f\x7f]{1,15}").fullmatch
# Kubernetes: a pod's name is a DNS subdomain, a namespace a DNS label; capitals are let through.
_POD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,252}").fullmatch
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.\-]{1,4}").fullmatch
# What Go's strconv.Atoi takes.
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,9}").fullmatch
_KNOWN: Final = frozenset(
    ("IgnoreUnknown", "K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID")
)
_TRUTH: Final = {"1": True, "true": True, "0": False, "false": False}

# The lowest configuration version that knows the verb.
_SINCE: Final = {"CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0"}


class _Runtime(msgspec.Struct):
    annotations: dict[str, Any] | None = msgspec.field(default=None, name="io.kubernetes.cri.pod-annotations")


class Attachment(msgspec.Struct, rename={"container_id": "containerID"}, frozen=True):
    """One attachment that the runtime still knows (GC)."""

    container_id: str
    ifname: str


class _Conf(msgspec.Struct):
    # A Go decoder, which the field's plugins use, takes null as if the field were not there.
    name: str | None = ""
    version: str | None = msgspec.field(default="", name="cniVersion")
    veth_prefix: str | None = msgspec.field(default=DEFAULT_VETH_PREFIX, name="vethPrefix")
    mtu: str | None = ""
    runtime: _Runtime | None = msgspec.field(default=None, name="runtimeConfig")
    previous: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw, name="prevResult")
    valid: list[Attachment] | None = msgspec.field(default=None, name="cni.dev/valid-attachments")


class _Interface(msgspec.Struct):
    name: str
    mac: str = ""
    sandbox: str = ""


class _Ip(msgspec.Struct):
    address: str
    interface: int | None = None


class _Previous(msgspec.Struct):
    interfaces: list[_Interface] = []
    ips: list[_Ip] = []


class _Version(msgspec.Struct):
    version: Any = msgspec.field(default="", name="cniVersion")


_conf: Final = msgspec.json.Decoder(_Conf)
_previous: Final = msgspec.json.Decoder(_Previous)
_version: Final = msgspec.json.Decoder(_Version)


class Previous(msgspec.Struct, frozen=True):
    """What an earlier ADD of ours (or of the existing plugin) said, as far as DEL and CHECK need it.

    `addresses` are texts without prefix length; `table` and `device` are -1 where the result has none.
    """

    host_veth: str
    addresses: tuple[str, ...]
    table: int
    device: int


class Request(msgspec.Struct):
    """One request of the runtime, checked. `mtu` 0: the node's own. `valid` is for GC, None elsewhere."""

    verb: str
    version: str
    network: str
    container_id: str
    ifname: str
    netns: str
    namespace: str
    pod: str
    pod_uid: str
    veth_prefix: str
    mtu: int
    multi_nic: bool
    previous: Previous | None
    valid: list[Attachment] | None
    notes: list[str]


def _text(name: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from error


def parse_args(text: str) -> dict[str, str]:
    """CNI_ARGS as a dictionary (`key=value` pairs, `;` between).

    Raises BadEnvironment for a malformed pair, or an unknown key without IgnoreUnknown=1.
    """
    args: dict[str, str] = {}
    if not text:
        return args
    for pair in text.split(";"):
        key, equals, value = pair.partition("=")
        if not equals or not key or "=" in value:
            raise BadEnvironment(f"CNI_ARGS: {pair!r} is not one key=value pair")
        args[key] = value
    ignore = args.get("IgnoreUnknown", "0")
    truth = _TRUTH.get(ignore.lower())
    if truth is None:
        raise BadEnvironment(f"CNI_ARGS: IgnoreUnknown={ignore!r} must be 1, true, 0 or false")
    if not truth and not args.keys() <= _KNOWN:
        unknown = ", ".join(sorted(args.keys() - _KNOWN))
        raise BadEnvironment(f"CNI_ARGS: unknown keys {unknown} without IgnoreUnknown=1")
    return args


def parse_mtu(text: str) -> int:
    """The MTU that the configuration's text means: 0 if there is none; 9001 for nonsense or outside 576..9001."""
    if not text:
        return 0
    if not _NUMBER(text) or not MIN_MTU <= int(text) <= DEFAULT_MTU:
        return DEFAULT_MTU
    return int(text)


def _number(text: str) -> int:
    return int(text) if _NUMBER(text) and int(text) >= 0 else -1


def parse_previous(raw: bytes | msgspec.Raw, ifname: str) -> Previous | None:
    """A previous result; None if there is none, or it is not of our shape (no host interface before `ifname`).

    Raises BadNetworkConfig if it cannot be decoded.
    """
    if len(memoryview(raw)) == 0:
        return None
    try:
        result = _previous.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if bytes(memoryview(raw)) == b"null":
            return None
        raise BadNetworkConfig(f"prevResult cannot be decoded: {error}") from error
    inside = next((i for i, face in enumerate(result.interfaces) if face.name == ifname and face.sandbox), None)
    if inside is None or inside == 0:
        return None
    device = -1
    for face in result.interfaces:
        if face.name.startswith("dummy"):
            device = _number(face.sandbox)
    return Previous(
        host_veth=result.interfaces[inside - 1].name,
        addresses=tuple(ip.address.partition("/")[0] for ip in result.ips if ip.interface in (inside, None)),
        table=_number(result.interfaces[inside].mac),
        device=device,
    )


def version_of(config: bytes) -> str:
    """The version that an answer should bear: the configuration's if it can be read and we speak it, else 0.4.0."""
    try:
        version = _version.decode(config).version
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "0.4.0"
    return version if version in VERSIONS else "0.4.0"


def _check_version(verb: str, version: str) -> None:
    if version not in VERSIONS:
        raise UnsupportedVersion(f"cniVersion {version!r} is none of {', '.join(VERSIONS)}")
    since = _SINCE.get(verb, "")
    if since and VERSIONS.index(version) < VERSIONS.index(since):
        raise UnsupportedVersion(f"{verb} needs cniVersion {since} or later, the configuration says {version}")


def decode(verb: str, container_id: bytes, netns: bytes, ifname: bytes, args: bytes, config: bytes) -> Request:
    """The request that these fields of a frame make (CNI specification; data plane specification, section 3).

    `verb` is ADD, DEL, CHECK, STATUS or GC. Raises BadRequest, UnsupportedVersion, BadNetworkConfig, BadEnvironment.
    """
    text = _text("the configuration on standard input", config)
    try:
        conf = _conf.decode(text)
    except msgspec.ValidationError as error:
        # A version that we do not speak may well have other rules: that is the better thing to tell.
        said = _version.decode(text).version if text.lstrip().startswith("{") else ""
        if said and isinstance(said, str):
            _check_version(verb, said)
        raise BadNetworkConfig(f"the configuration breaks a rule: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadRequest(f"the configuration on standard input is no JSON: {error}") from error
    version = conf.version or "0.1.0"
    _check_version(verb, version)
    network = conf.name or ""
    if not _NETWORK(network):
        raise BadNetworkConfig(
            f"name {network[:300]!r} must be 1 to 253 letters, digits, `_.-`, beginning with none of `_.-`"
        )
    prefix = conf.veth_prefix or DEFAULT_VETH_PREFIX
    if not _PREFIX(prefix):
        raise BadNetworkConfig(f"vethPrefix {prefix[:300]!r} must be 1 to {MAX_PREFIX} letters, digits or `_.-`")
    notes: list[str] = []
    annotations = conf.runtime.annotations if conf.runtime is not None else None
    wish = annotations.get(NIC_ANNOTATION) if annotations else None
    if wish is not None and wish != MULTI_NIC:
        notes.append(f"annotation {NIC_ANNOTATION}={wish!r} is ignored; the only value is {MULTI_NIC}")
    if verb in ("STATUS", "GC"):
        if verb == "GC" and conf.valid is None:
            raise BadNetworkConfig("GC needs the list cni.dev/valid-attachments")
        return Request(verb, version, network, "", "", "", "", "", "", prefix, 0, False, None, conf.valid, notes)

    container = _text("CNI_CONTAINERID", container_id)
    if not _ID(container):
        raise BadEnvironment(
            f"CNI_CONTAINERID {container[:300]!r} must be 1 to 253 letters, digits, `_.-`, beginning with none of `_.-`"
        )
    face = _text("CNI_IFNAME", ifname)
    if not _IFNAME(face) or face in (".", "..") or len(ifname) > 15:
        raise BadEnvironment(
            f"CNI_IFNAME {face[:300]!r} must be 1 to 15 bytes without `/`, `:`, white space and control characters"
        )
    path = _text("CNI_NETNS", netns)
    known = parse_args(_text("CNI_ARGS", args))
    namespace = known.get("K8S_POD_NAMESPACE", "")
    pod = known.get("K8S_POD_NAME", "")
    if verb == "ADD":
        for key, value in (("K8S_POD_NAMESPACE", namespace), ("K8S_POD_NAME", pod)):
            if not _POD(value):
                raise BadEnvironment(
                    f"CNI_ARGS: {key}={value[:300]!r} must be 1 to 253 letters, digits or `_.-`: it names the host veth"
                )
        if not path:
            raise BadEnvironment("CNI_NETNS is empty; ADD needs the pod's network namespace")
    elif verb == "CHECK" and not path:
        raise BadEnvironment("CNI_NETNS is empty; CHECK needs the pod's network namespace")
    previous: Previous | None = None
    try:
        previous = parse_previous(conf.previous, face)
    except BadNetworkConfig as error:
        # A DEL must not fail for what it can do without.
        if verb != "DEL":
            raise
        notes.append(f"ignored: {error.text}")
    return Request(
        verb,
        version,
        network,
        container,
        face,
        path,
        namespace,
        pod,
        known.get("K8S_POD_UID", "")[:64],
        prefix,
        parse_mtu(conf.mtu or ""),
        wish == MULTI_NIC,
        previous,
        None,
        notes,
    )
