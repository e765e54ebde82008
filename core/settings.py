"""The environment variables as one checked value.

The variables are a contract with thousands of running clusters, so they are parsed by the documented rules:
a malformed boolean or number falls back to its default with a warning, and only what their documentation calls
fatal is fatal. One rule is our own: a documented variable that asks for something this release does not
serve stops the start, because a node that silently lacks a security feature is worse than one that does not
start. All faults are reported at once, so that nobody repairs them one restart at a time.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from core.errors import BadSetting
from core.names import DEFAULT_VETH_PREFIX

RandomizeSnat = Literal["prng", "hashrandom", "none"]

TRUE: Final = frozenset(("1", "t", "T", "TRUE", "true", "True"))
FALSE: Final = frozenset(("0", "f", "F", "FALSE", "false", "False"))
RUN_DIR: Final = "/var/run/aws-node"
LOG_DIR: Final = "/host/var/log/aws-routed-eni"
DEFAULT_MARK: Final = 0x80
LEVELS: Final = ("debug", "info", "warn", "error", "fatal")
RESERVED_TAG: Final = "k8s.amazonaws.com"
# sun_path holds 108 bytes with its end; the longest name below the run directory is `supervisor.lock`.
RUN_DIR_BYTES: Final = 90

_INT: Final = re.compile(r"[+-]?[0-9]{1,18}")
_URL: Final = re.compile(r"https?://[^/\s]+(/\S*)?")
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.-]{1,4}")

# Variables of features that are not served: name -> what is its default (several where chart and code differ).
# Their values are compared after the documented parsing, so that `FALSE` and a malformed value are defaults.
_UNSERVED_BOOL: Final[dict[str, tuple[bool, str]]] = {
    "ENABLE_PREFIX_DELEGATION": (False, "prefix delegation"),
    "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": (False, "custom networking"),
    "ENABLE_MULTI_NIC": (False, "several network cards"),
    "ENABLE_POD_ENI": (False, "security groups for pods"),
    "ANNOTATE_POD_IP": (False, "pod annotations"),
    "DISABLE_NETWORK_RESOURCE_PROVISIONING": (False, "a pool that others fill"),
    "ENABLE_IMDS_ONLY_MODE": (False, "IMDS-only mode"),
    "ENABLE_V6_EGRESS": (False, "IPv6 egress"),
    "ENABLE_V4_EGRESS": (True, "IPv4 egress"),
    "ENABLE_BANDWIDTH_PLUGIN": (False, "the bandwidth plugin"),
    "DISABLE_POD_V6": (False, "the tuning plugin"),
}
_UNSERVED_TEXT: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "ENI_CONFIG_ANNOTATION_DEF": (("", "k8s.amazonaws.com/eniConfig"), "custom networking"),
    "ENI_CONFIG_LABEL_DEF": (("", "k8s.amazonaws.com/eniConfig"), "custom networking"),
    "INTROSPECTION_BIND_ADDRESS": (("127.0.0.1:61679",), "introspection"),
    "AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE": (
        ("", "/var/log/aws-routed-eni/egress-v4-plugin.log"),
        "the egress plugin",
    ),
    "AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE": (
        ("", "/var/log/aws-routed-eni/egress-v6-plugin.log"),
        "the egress plugin",
    ),
}
_OWN: Final = frozenset(
    ("ENID_RUN_DIR", "ENID_CNI_BIN_DIR", "ENID_CNI_CONF_DIR", "ENID_LOG_DIR", "ENID_ADD_WAIT", "ENID_LISTEN_FD")
)


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, checked. Times are seconds, paths are absolute, CIDRs are normalised to network addresses.

    `warnings` names each variable whose value was replaced by its default or dropped, for the log.
    """

    run_dir: str = RUN_DIR
    cni_bin_dir: str = "/host/opt/cni/bin"
    cni_conf_dir: str = "/host/etc/cni/net.d"
    log_dir: str = LOG_DIR
    node_name: str = ""
    pod_name: str = ""
    ipv6: bool = False
    warm_eni_target: int = 1
    warm_ip_target: int = 0
    minimum_ip_target: int = 0
    max_eni: int | None = None
    cooldown_s: int = 30
    add_wait_s: float = 60.0
    veth_prefix: str = DEFAULT_VETH_PREFIX
    eni_mtu: int = 9001
    pod_mtu: int = 9001
    external_snat: bool = False
    exclude_snat_cidrs: tuple[str, ...] = ()
    external_service_cidrs: tuple[str, ...] = ()
    randomize_snat: RandomizeSnat = "prng"
    node_port_support: bool = True
    connmark: int = DEFAULT_MARK
    tcp_early_demux: bool = True
    cluster_name: str = ""
    additional_eni_tags: Mapping[str, str] = field(default_factory=dict)
    manage_untagged_eni: bool = True
    subnet_discovery: bool = True
    manage_enis_non_schedulable: bool = False
    leaked_eni_cleanup: bool = True
    checkpoint_path: str = f"{RUN_DIR}/ipam.json"
    log_level: str = "debug"
    log_file: str = f"{LOG_DIR}/ipamd.log"
    ec2_endpoint: str = ""
    imds_endpoint: str = "http://169.254.169.254"
    cluster_endpoint: str | None = None
    version: str = ""
    http_timeout_s: int = 10
    plugin_log_file: str = "/var/log/aws-routed-eni/plugin.log"
    plugin_log_level: str = "Debug"
    warnings: tuple[str, ...] = ()

    @property
    def cni_socket(self) -> str:
        """The socket that the shim connects to."""
        return f"{self.run_dir}/cni.sock"

    @property
    def control_socket(self) -> str:
        """The socket between agent, manager and commands."""
        return f"{self.run_dir}/control.sock"

    @property
    def spool_dir(self) -> str:
        """The folder of DELs that could not reach the agent."""
        return f"{self.run_dir}/spool"

    @property
    def journal_dir(self) -> str:
        """The folder of the two journal segments."""
        return f"{self.run_dir}/journal"

    @property
    def ip_targets(self) -> bool:
        """Whether an IP target is set, which switches the interface target off (IPAM specification, fact 5)."""
        return self.warm_ip_target != 0 or self.minimum_ip_target != 0


class _Reader:
    """Reads variables by the documented rules and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.faults: list[str] = []
        self.warnings: list[str] = []

    def fault(self, name: str, rule: str) -> None:
        self.faults.append(f"{name}={self.environ.get(name, '')!r}: {rule}")

    def warn(self, name: str, text: str) -> None:
        self.warnings.append(f"{name}={self.environ.get(name, '')!r}: {text}")

    def boolean(self, name: str, default: bool) -> bool:
        value = self.environ.get(name)
        if value is None:
            return default
        if value in TRUE:
            return True
        if value not in FALSE:
            self.warn(name, f"not a boolean, taken as {str(default).lower()}")
            return default
        return False

    def integer(self, name: str, default: int, lowest: int) -> int:
        """`default` for what is malformed or below `lowest`, as documented for the targets."""
        value = self.environ.get(name)
        if value is None:
            return default
        if not _INT.fullmatch(value):
            self.warn(name, f"not a whole number, taken as {default}")
            return default
        if int(value) < lowest:
            self.warn(name, f"below {lowest}, taken as {default}")
            return default
        return int(value)

    def bounded(self, name: str, default: int, lowest: int, highest: int, what: str) -> int:
        """A number outside whose documented bounds the start is fatal."""
        value = self.environ.get(name)
        if value is None:
            return default
        if not _INT.fullmatch(value) or not lowest <= int(value) <= highest:
            self.fault(name, f"{what} must be a whole number from {lowest} to {highest}")
            return default
        return int(value)

    def path(self, name: str, default: str, fallback: str = "") -> str:
        """`fallback` is an older name of the same setting."""
        used = name if self.environ.get(name) else fallback
        value = self.environ.get(used, "") or default
        if not value.startswith("/") or "\0" in value:
            self.fault(used, "must be an absolute path")
            return default
        return value.rstrip("/") or "/"

    def url(self, *names: str) -> str:
        """The first of `names` that is set; empty if none is."""
        for name in names:
            value = self.environ.get(name, "")
            if not value:
                continue
            if not _URL.fullmatch(value):
                self.fault(name, "must be an http or https address")
                return ""
            return value.rstrip("/")
        return ""

    def cidrs(self, name: str) -> tuple[str, ...]:
        """IPv4 networks of a comma list; anything else is skipped with a warning (data plane specification, 12.3)."""
        found: list[str] = []
        for entry in self.environ.get(name, "").split(","):
            text = entry.strip()
            if not text:
                continue
            try:
                network = str(ipaddress.IPv4Network(text, strict=False)) if "/" in text else ""
            except ValueError:
                network = ""
            if not network:
                self.warn(name, f"{text!r} is not an IPv4 CIDR and is skipped")
            elif network not in found:
                found.append(network)
        return tuple(found)

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.environ.get(name)
        if value is None:
            return default
        if value.lower() in choices:
            return value.lower()
        self.warn(name, f"not one of {', '.join(choices)}, taken as {default}")
        return default


def load(environ: Mapping[str, str]) -> Settings:
    """The settings that `environ` asks for (IPAM specification, 7, data plane specification, 12.3, 16 and 17).

    Raises BadSetting, naming every variable at fault, if one breaks a rule that is fatal, or asks for
    something that is documented and not served yet. Pure: the same input gives the same value.
    """
    read = _Reader(environ)
    _family(read)
    _unserved(read)
    for name in sorted(environ):
        if name.startswith("ENID_") and name not in _OWN:
            read.warn(name, "is no variable of this release and is ignored")

    run_dir = read.path("ENID_RUN_DIR", RUN_DIR)
    if len(run_dir.encode()) > RUN_DIR_BYTES:
        read.fault("ENID_RUN_DIR", f"must not be longer than {RUN_DIR_BYTES} bytes, it holds sockets")
    log_dir = read.path("ENID_LOG_DIR", LOG_DIR)
    # Neither has anything to switch off yet; a malformed value is told all the same.
    for name in ("DISABLE_INTROSPECTION", "DISABLE_METRICS"):
        read.boolean(name, False)
    eni_mtu = read.bounded("AWS_VPC_ENI_MTU", 9001, 576, 9001, "the MTU")
    max_eni = read.integer("MAX_ENI", -1, -1)
    randomize = environ.get("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "prng")
    if randomize not in ("prng", "hashrandom", "none"):
        read.warn("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "not one of prng, hashrandom, none, taken as prng")

    settings = Settings(
        run_dir=run_dir,
        cni_bin_dir=read.path("ENID_CNI_BIN_DIR", "/host/opt/cni/bin", "HOST_CNI_BIN_PATH"),
        cni_conf_dir=read.path("ENID_CNI_CONF_DIR", "/host/etc/cni/net.d", "HOST_CNI_CONFDIR_PATH"),
        log_dir=log_dir,
        node_name=environ.get("MY_NODE_NAME", ""),
        pod_name=environ.get("MY_POD_NAME", ""),
        warm_eni_target=read.integer("WARM_ENI_TARGET", 1, 0),
        warm_ip_target=read.integer("WARM_IP_TARGET", 0, 0),
        minimum_ip_target=read.integer("MINIMUM_IP_TARGET", 0, 0),
        max_eni=max_eni if max_eni >= 1 else None,
        cooldown_s=read.bounded("IP_COOLDOWN_PERIOD", 30, 0, 86400, "the cool-down in seconds"),
        add_wait_s=float(read.bounded("ENID_ADD_WAIT", 60, 0, 600, "the wait of an ADD in seconds")),
        veth_prefix=_veth_prefix(read),
        eni_mtu=eni_mtu,
        pod_mtu=read.bounded("POD_MTU", eni_mtu, 576, 9001, "the MTU"),
        external_snat=read.boolean("AWS_VPC_K8S_CNI_EXTERNALSNAT", False),
        exclude_snat_cidrs=read.cidrs("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS"),
        external_service_cidrs=read.cidrs("AWS_EXTERNAL_SERVICE_CIDRS"),
        randomize_snat="hashrandom" if randomize == "hashrandom" else "none" if randomize == "none" else "prng",
        node_port_support=read.boolean("AWS_VPC_CNI_NODE_PORT_SUPPORT", True),
        connmark=_connmark(read),
        tcp_early_demux=not read.boolean("DISABLE_TCP_EARLY_DEMUX", False),
        cluster_name=environ.get("CLUSTER_NAME", ""),
        additional_eni_tags=_tags(read),
        manage_untagged_eni=read.boolean("MANAGE_UNTAGGED_ENI", True),
        subnet_discovery=read.boolean("ENABLE_SUBNET_DISCOVERY", True),
        manage_enis_non_schedulable=read.boolean("AWS_MANAGE_ENIS_NON_SCHEDULABLE", False),
        leaked_eni_cleanup=not read.boolean("DISABLE_LEAKED_ENI_CLEANUP", False),
        checkpoint_path=read.path("AWS_VPC_K8S_CNI_BACKING_STORE", f"{run_dir}/ipam.json"),
        log_level=read.choice("AWS_VPC_K8S_CNI_LOGLEVEL", "debug", LEVELS),
        log_file=_log_file(read, log_dir),
        ec2_endpoint=read.url("AWS_ENDPOINT_URL_EC2", "AWS_EC2_ENDPOINT"),
        imds_endpoint=read.url("AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254",
        cluster_endpoint=environ.get("CLUSTER_ENDPOINT"),
        version=environ.get("VPC_CNI_VERSION", ""),
        http_timeout_s=read.integer("HTTP_TIMEOUT", 10, 10),
        plugin_log_file=_plugin_log_file(read, log_dir),
        plugin_log_level=environ.get("AWS_VPC_K8S_PLUGIN_LOG_LEVEL", "Debug"),
        warnings=tuple(read.warnings),
    )
    if read.faults:
        raise BadSetting("; ".join(read.faults))
    return settings


def _family(read: _Reader) -> None:
    v4 = read.boolean("ENABLE_IPv4", False)
    v6 = read.boolean("ENABLE_IPv6", False)
    if v4 and v6:
        read.fault("ENABLE_IPv6", "exactly one of ENABLE_IPv4 and ENABLE_IPv6 must be true, both are")
    elif v6:
        read.fault("ENABLE_IPv6", "IPv6 is not served by this release")
    elif not v4:
        read.fault("ENABLE_IPv4", "exactly one of ENABLE_IPv4 and ENABLE_IPv6 must be true, neither is")


def _unserved(read: _Reader) -> None:
    for name, (default, what) in _UNSERVED_BOOL.items():
        if read.boolean(name, default) != default:
            read.fault(name, f"{what} is not served by this release")
    for name, (defaults, what) in _UNSERVED_TEXT.items():
        if name in read.environ and read.environ[name] not in defaults:
            read.fault(name, f"{what} is not served by this release")
    # Chart 1, code 0; negative and malformed count as 0.
    value = read.environ.get("WARM_PREFIX_TARGET", "0")
    if _INT.fullmatch(value) and int(value) > 1:
        read.fault("WARM_PREFIX_TARGET", "prefix delegation is not served by this release")
    mode = read.environ.get("POD_SECURITY_GROUP_ENFORCING_MODE", "strict")
    if mode == "standard":
        read.fault("POD_SECURITY_GROUP_ENFORCING_MODE", "security groups for pods are not served by this release")
    elif mode != "strict":
        read.warn("POD_SECURITY_GROUP_ENFORCING_MODE", "not one of strict, standard, taken as strict")
    # Unset, none and the chart's standard leave pods open as long as no policy agent enforces policies; that
    # the node has none is looked at by the manager before it takes the node over.
    policy = read.environ.get("NETWORK_POLICY_ENFORCING_MODE", "")
    if policy.lower() == "strict":
        read.fault("NETWORK_POLICY_ENFORCING_MODE", "network policy is not served by this release")
    elif policy and policy.lower() not in ("none", "standard"):
        read.fault("NETWORK_POLICY_ENFORCING_MODE", "must be one of none, strict, standard")


def _veth_prefix(read: _Reader) -> str:
    name = "AWS_VPC_K8S_CNI_VETHPREFIX"
    value = read.environ.get(name, DEFAULT_VETH_PREFIX)
    if not _PREFIX.fullmatch(value) or value in (".", ".."):
        # The existing system takes an empty prefix, and then matches every interface of the host.
        read.fault(name, "must be 1 to 4 letters, digits or `_.-`")
        return DEFAULT_VETH_PREFIX
    if value in ("eth", "lo", "vlan"):
        read.fault(name, "must not be eth, lo or vlan")
        return DEFAULT_VETH_PREFIX
    return value


def _connmark(read: _Reader) -> int:
    name = "AWS_VPC_K8S_CNI_CONNMARK"
    text = read.environ.get(name)
    if text is None:
        return DEFAULT_MARK
    try:
        # Go's base 0: 0x, 0o, 0b, and a plain leading 0 for octal.
        value = int(text, 8) if re.fullmatch(r"0[0-7]+", text) else int(text, 0)
    except ValueError:
        value = 0
    if not 1 <= value <= 0xFFFFFFFF:
        read.warn(name, f"not a number from 1 to 2^32-1, taken as {DEFAULT_MARK:#x}")
        return DEFAULT_MARK
    return value


def _tags(read: _Reader) -> dict[str, str]:
    name = "ADDITIONAL_ENI_TAGS"
    text = read.environ.get(name, "")
    if not text:
        return {}
    try:
        tags = json.loads(text)
    except (ValueError, RecursionError):
        tags = None
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        read.warn(name, "not a JSON object of strings, no tags are added")
        return {}
    for key in [key for key in tags if RESERVED_TAG in key]:
        read.warn(name, f"the key {key!r} contains {RESERVED_TAG} and is dropped")
        del tags[key]
    return tags


def _log_file(read: _Reader, log_dir: str) -> str:
    """`ENID_LOG_DIR` moves files, so that several nodes can share one machine; it does not open closed streams."""
    name = "AWS_VPC_K8S_CNI_LOG_FILE"
    value = read.environ.get(name, "")
    if value in ("stdout", "stderr"):
        return value
    if not value or "ENID_LOG_DIR" in read.environ:
        return f"{log_dir}/ipamd.log"
    return read.path(name, "")


def _plugin_log_file(read: _Reader, log_dir: str) -> str:
    name = "AWS_VPC_K8S_PLUGIN_LOG_FILE"
    value = read.environ.get(name, "/var/log/aws-routed-eni/plugin.log")
    if value == "stdout":
        read.fault(name, "must not be stdout, which carries the CNI result")
    if value not in ("", "stderr") and "ENID_LOG_DIR" in read.environ:
        return f"{log_dir}/plugin.log"
    return value
