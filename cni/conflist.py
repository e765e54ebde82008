"""The network configuration list that makes a runtime call our plugin, and its peace with others who write it.

The file is shared: istio-cni and linkerd-cni append themselves, and the existing system has left its own there.
So it is read first, our part is put in, foreign plugins stay in the chain where they are, and nothing is
written if nothing of ours has changed. The values are the existing system's contract (data plane specification, 3).

Three entries of the existing system's list are not in ours, and are taken out of a list that has them:

- `portmap`: in a list it is started for every pod, three to five milliseconds each time, and every pod start fails
  where it is missing. Few pods have host ports. Ours asks for the capability `portMappings` itself, and the shim
  starts `portmap` only when the runtime passes ports, with the input that it would have got in the chain.
- `egress-cni`: IPv4 for IPv6 pods and the reverse; it is not served yet, and off unless asked for.
- `bandwidth` and `tuning` exactly as the existing entry point appends them: they follow variables that are
  off here, since a start with them on is refused. Any other entry of these types is somebody's own and stays.
"""

from __future__ import annotations

import json
from typing import Any, Final

from core.settings import RUN_DIR, Settings

FILE_NAME: Final = "10-aws.conflist"
NETWORK: Final = "aws-cni"
PLUGIN: Final = "aws-cni"
# Not 1.1.0, which containerd 1.6 refuses after the ADD is done.
CNI_VERSION: Final = "0.4.0"
DEFAULT_SOCKET: Final = f"{RUN_DIR}/cni.sock"
DEFAULT_ADD_WAIT_S: Final = 60

# A tuple: what stands at `type` in a foreign entry need not be hashable.
_SUPERSEDED: Final = (PLUGIN, "egress-cni", "portmap")
_APPENDED: Final[tuple[dict[str, Any], ...]] = (
    {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    {
        "type": "tuning",
        "sysctl": {
            "net.ipv6.conf.all.disable_ipv6": "1",
            "net.ipv6.conf.default.disable_ipv6": "1",
            "net.ipv6.conf.lo.disable_ipv6": "1",
        },
    },
)


def plugin(settings: Settings) -> dict[str, Any]:
    """Our entry in the chain. What is at its default and only the shim reads is left out."""
    entry: dict[str, Any] = {
        "name": PLUGIN,
        "type": PLUGIN,
        "vethPrefix": settings.veth_prefix,
        # A string by contract, and so read by both plugins after a change of the image.
        "mtu": str(settings.pod_mtu),
        "podSGEnforcingMode": "strict",
        "pluginLogFile": settings.plugin_log_file,
        "pluginLogLevel": settings.plugin_log_level,
        "capabilities": {"io.kubernetes.cri.pod-annotations": True, "portMappings": True},
    }
    if settings.cni_socket != DEFAULT_SOCKET:
        entry["agentSocket"] = settings.cni_socket
    if settings.add_wait_s > DEFAULT_ADD_WAIT_S:
        # The shim waits for the agent's patience and a margin; it must know of a longer one.
        entry["addWait"] = round(settings.add_wait_s)
    if settings.ipv6:
        entry["ipv6"] = True
    return entry


def document(settings: Settings) -> dict[str, Any]:
    """The whole list as it is on a node without other writers."""
    return {"cniVersion": CNI_VERSION, "name": NETWORK, "disableCheck": True, "plugins": [plugin(settings)]}


def render(settings: Settings) -> bytes:
    """`document` as the file's content."""
    return _dump(document(settings))


def merge(existing: bytes | None, settings: Settings) -> bytes | None:
    """The file's new content, or None if it is right as it is. `existing` is None if there is no file.

    Foreign plugins keep their order and place, foreign keys of the list stay. What is no list (not UTF-8, not
    JSON, no `plugins`) is replaced, as the existing system does at each start.
    """
    found = _parse(existing)
    if found is None:
        return render(settings)
    chain: list[Any] = []
    placed = False
    for entry in found["plugins"]:
        # No runtime takes a list with an entry that is no object.
        if not isinstance(entry, dict):
            continue
        if entry.get("type") == PLUGIN and not placed:
            chain.append(plugin(settings))
            placed = True
        elif entry.get("type") not in _SUPERSEDED and entry not in _APPENDED:
            chain.append(entry)
    if not placed:
        # Others chain onto an interface that ours makes, so ours goes first.
        chain.insert(0, plugin(settings))
    wanted = {**found, **document(settings), "plugins": chain}
    return None if wanted == found else _dump(wanted)


def ours(existing: bytes) -> bool:
    """Whether a list calls our plugin: the existing system's entry of the same type asks for no port mappings."""
    found = _parse(existing)
    return found is not None and any(map(_is_ours, found["plugins"]))


def ours_alone(existing: bytes) -> bool:
    """Whether a list calls our plugin and none of anybody else."""
    found = _parse(existing)
    return found is not None and bool(found["plugins"]) and all(map(_is_ours, found["plugins"]))


def _is_ours(entry: object) -> bool:
    if not isinstance(entry, dict) or entry.get("type") != PLUGIN:
        return False
    capabilities = entry.get("capabilities")
    return isinstance(capabilities, dict) and capabilities.get("portMappings") is True


def _parse(existing: bytes | None) -> dict[str, Any] | None:
    if existing is None:
        return None
    try:
        found = json.loads(existing.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("plugins"), list):
        return None
    return found


def _dump(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
