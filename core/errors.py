"""Every failure that a user or another program can meet, as one tree of types.

A failure here is for somebody: the person on call, the runtime, the planner. So each class says what
happened (`code`, stable, for metrics and events), what CNI number the runtime is given (CNI specification,
"Error"; 100 and above are ours), what to do about it, and whether trying again can help. Adapters
translate the errors of EC2, Kubernetes and the kernel into these and chain the cause.
"""

from __future__ import annotations

from typing import ClassVar


class EnidError(Exception):
    """Root of all our errors.

    `text` names the thing, the value and the rule; `cause` is the lower error in words, if any.
    `retry_after` is in seconds; None means that trying again cannot help until something changes.
    """

    code: ClassVar[str] = "internal"
    cni_code: ClassVar[int] = 999
    remedy: str = "see the agent's log"

    def __init__(self, text: str, *, cause: str = "", retry_after: float | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.cause = cause
        self.retry_after = retry_after

    def details(self) -> str:
        """One line for CNI `details`, events and logs: code, cause, remedy, when to try again."""
        parts = [f"code={self.code}"]
        if self.cause:
            parts.append(f"cause: {self.cause}")
        parts.append(f"remedy: {self.remedy}")
        if self.retry_after is not None:
            parts.append(f"retry after {self.retry_after:g} s")
        return "; ".join(parts)


# --- what the runtime or its configuration did wrong ------------------------------------------------


class BadRequest(EnidError):
    """The CNI input cannot be decoded (truncated, not UTF-8, not JSON, too large)."""

    code = "bad-request"
    cni_code = 6
    remedy = "check the runtime's CNI input"


class UnsupportedVersion(EnidError):
    """`cniVersion` is none of those that we speak."""

    code = "unsupported-version"
    cni_code = 1
    remedy = "use one of the versions that VERSION lists"


class BadEnvironment(EnidError):
    """A CNI_* variable is missing or malformed, or CNI_ARGS holds an unknown key without IgnoreUnknown."""

    code = "bad-environment"
    cni_code = 4
    remedy = "check the runtime's CNI variables"


class BadNetworkConfig(EnidError):
    """A field of the plugin's configuration breaks its rule."""

    code = "bad-network-config"
    cni_code = 7
    remedy = "correct the conflist"


class UnknownContainer(EnidError):
    """CHECK of a container that has no address here."""

    code = "unknown-container"
    cni_code = 3
    remedy = "let the runtime make the sandbox anew"


# --- why a pod has no address -----------------------------------------------------------------------


class PoolEmpty(EnidError):
    """No free address now, and the wait for the refill is over."""

    code = "pool-empty"
    cni_code = 11
    remedy = "wait; `enid status` shows the refill under way and its last error"


class NodeFull(EnidError):
    """No free address, and none can come: a limit of the instance type, MAX_ENI or the subnet is reached."""

    code = "node-full"
    cni_code = 110
    remedy = "place fewer pods on this node, or raise the limit that is named"


class MultiNicOff(EnidError):
    """The pod asks for an interface on each network card, and the node has only card 0 to give."""

    code = "multi-nic-off"
    cni_code = 112
    remedy = "take the annotation away, or run nodes with ENABLE_MULTI_NIC"


class CallerGone(EnidError):
    """The runtime hung up, or deleted the sandbox, while its ADD was waiting."""

    code = "caller-gone"
    cni_code = 111
    remedy = "none needed: the runtime tries again"


class NotReady(EnidError):
    """The node has never been initialised."""

    code = "not-ready"
    cni_code = 50
    remedy = "see `enid status` for what the start is waiting for"


# --- the kernel -------------------------------------------------------------------------------------


class KernelRefused(EnidError):
    """The kernel answered a netlink message of an ADD or DEL with an error; what was made is undone."""

    code = "kernel-refused"
    cni_code = 120
    remedy = "see `enid explain` for the message and its errno"


class DescriptorsRefused(EnidError):
    """The descriptors of the pod's namespace did not arrive with the request (SELinux does that)."""

    code = "descriptors-refused"
    cni_code = 121
    remedy = "allow the runtime's domain to pass descriptors to the agent"


# --- state on this node -----------------------------------------------------------------------------


class JournalDamaged(EnidError):
    """A record in the middle of the journal is damaged; what is before it counts."""

    code = "journal-damaged"
    cni_code = 130
    remedy = "none needed: state is completed from ipam.json and the kernel; keep the file for a report"


class JournalNewer(EnidError):
    """The journal was written in a format newer than this release reads."""

    code = "journal-newer"
    cni_code = 131
    remedy = "state is taken from ipam.json and the kernel; run the newer release to read the journal"


class JournalWrite(EnidError):
    """The journal could not be written; nothing was handed out or released."""

    code = "journal-write"
    cni_code = 132
    remedy = "check the file system that holds the run directory"


class CheckpointForeign(EnidError):
    """ipam.json of another writer cannot be read (not JSON, or another version)."""

    code = "checkpoint-foreign"
    cni_code = 133
    remedy = "move the file away; state is taken from the journal and the kernel"


# --- start and outside ------------------------------------------------------------------------------


class BadSetting(EnidError):
    """One or more environment variables break their rule, or ask for what this release does not serve."""

    code = "bad-setting"
    remedy = "correct the variables that are named"


class AlreadyRunning(EnidError):
    """Another daemon answers on this node's sockets or holds its lock."""

    code = "already-running"
    remedy = "stop the other daemon first"


class ImdsError(EnidError):
    """The instance metadata service does not answer, or answers nonsense."""

    code = "imds"
    remedy = "check that 169.254.169.254 answers from the host network"


class Ec2Error(EnidError):
    """EC2 refused or failed a call. `api_code` is EC2's own error code, empty if there was no answer."""

    code = "ec2"
    remedy = "see the error code in EC2's documentation"

    def __init__(
        self,
        text: str,
        *,
        action: str = "",
        api_code: str = "",
        cause: str = "",
        retry_after: float | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(text, cause=cause, retry_after=retry_after)
        self.action = action
        self.api_code = api_code
        self.remedy = remedy or type(self).remedy


class KubeError(EnidError):
    """The Kubernetes API server refuses, or answers nonsense, or there is no configuration for it."""

    code = "kube"
    remedy = "check the API server and this node's credentials"


class KubeAway(KubeError):
    """The Kubernetes API server cannot be reached: no connection, or no answer in time."""

    code = "kube-away"
    remedy = "check the way to the API server"


class HostNetworkError(EnidError):
    """The host's links, routes, rules or nftables table could not be brought to the wanted state."""

    code = "host-network"
    remedy = "see the message; the manager tries again"


class AgentGone(EnidError):
    """The agent's control socket does not answer."""

    code = "agent-gone"
    remedy = "start it with `enid agent`, or look at its log"
