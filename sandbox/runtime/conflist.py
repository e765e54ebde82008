"""The CNI specification's rules about configurations, as pure functions.

What a runtime must do between the file and the plugin (CNI specification 1.1.0, sections 1, 3 and "Deriving
execution configuration from plugin configuration"): pick the file, check it, insert and remove keys, name the
versions that know a verb. No process is started here.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from sandbox.base.failures import SandboxFailure

Verb = Literal["ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION"]
SINCE: Final[Mapping[str, tuple[int, ...]]] = {"CHECK": (0, 4, 0), "STATUS": (1, 1, 0), "GC": (1, 1, 0)}
PREV_RESULT_IN_DEL: Final = (0, 4, 0)
SUPPORTED: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")


@dataclass(frozen=True)
class Plugin:
    """One entry of `plugins`; `config` is the whole object."""

    type: str
    config: Mapping[str, Any]

    @property
    def capabilities(self) -> set[str]:
        """Those switched on."""
        wanted = self.config.get("capabilities") or {}
        return {name for name, on in wanted.items() if on is True}


@dataclass(frozen=True)
class Network:
    """One network configuration list."""

    name: str
    version: str
    plugins: tuple[Plugin, ...]
    disable_check: bool = False
    disable_gc: bool = False

    @property
    def number(self) -> tuple[int, ...]:
        return version_number(self.version)

    def knows(self, verb: str) -> bool:
        """Whether the list's version has the verb and the list does not switch it off."""
        if self.number < SINCE.get(verb, (0,)):
            return False
        return not (verb == "CHECK" and self.disable_check) and not (verb == "GC" and self.disable_gc)


def version_number(text: str) -> tuple[int, ...]:
    """Raises ValueError for what is not MAJOR.MINOR.PATCH."""
    return tuple(int(part) for part in text.split("."))


def load(folder: Path, negotiate: bool = True) -> Network:
    """The first `*.conflist` by name, as runtimes choose; `negotiate`: see `parse`.

    Raises SandboxFailure cni if there is none or it is wrong.
    """
    files = sorted(path for path in folder.glob("*.conflist") if path.is_file())
    if not files:
        raise SandboxFailure("cni", f"no network: {folder} holds no *.conflist")
    try:
        return parse(files[0].read_bytes(), negotiate)
    except (OSError, ValueError) as error:
        raise SandboxFailure("cni", f"{files[0]}: {error}") from error


def parse(text: bytes, negotiate: bool = True) -> Network:
    """A list from its JSON, in the highest version of `cniVersion` and (if `negotiate`) `cniVersions` that is known.

    Raises ValueError naming the key and the rule.
    """
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    name, version, plugins = data.get("name"), data.get("cniVersion", "0.2.0"), data.get("plugins")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r} must begin with a letter or digit and hold only those and '_', '.', '-'")
    offered = [version, *((data.get("cniVersions") or []) if negotiate else [])]
    spoken = [entry for entry in offered if entry in SUPPORTED]
    if not spoken:
        raise ValueError(f"cniVersion {version!r} is none of {', '.join(SUPPORTED)}")
    if not isinstance(plugins, list) or not plugins:
        raise ValueError("plugins must be a list with at least one entry")
    for index, plugin in enumerate(plugins):
        kind = plugin.get("type") if isinstance(plugin, dict) else None
        if not isinstance(kind, str) or not kind or "/" in kind:
            raise ValueError(f"plugins[{index}].type {kind!r} must be the file name of an executable")
    return Network(
        name=name,
        version=max(spoken, key=version_number),
        plugins=tuple(Plugin(plugin["type"], plugin) for plugin in plugins),
        disable_check=data.get("disableCheck") in (True, "true"),
        disable_gc=data.get("disableGC") in (True, "true"),
    )


def execution_config(
    network: Network,
    plugin: Plugin,
    prev_result: Mapping[str, Any] | None,
    capability_args: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """What the plugin reads from standard input."""
    config = {key: value for key, value in plugin.config.items() if key not in ("capabilities", "prevResult")}
    config["cniVersion"] = network.version
    config["name"] = network.name
    given = {name: value for name, value in capability_args.items() if name in plugin.capabilities and value}
    if given:
        config["runtimeConfig"] = {**config.get("runtimeConfig", {}), **given}
    if prev_result is not None:
        config["prevResult"] = prev_result
    return json.dumps({**config, **(extra or {})}).encode()


def cni_args(namespace: str, name: str, container_id: str, uid: str, rng: random.Random) -> str:
    """CNI_ARGS as containerd gives them: `IgnoreUnknown` and four pairs, in an order that means nothing."""
    pairs = [
        "IgnoreUnknown=1",
        f"K8S_POD_NAMESPACE={namespace}",
        f"K8S_POD_NAME={name}",
        f"K8S_POD_INFRA_CONTAINER_ID={container_id}",
        f"K8S_POD_UID={uid}",
    ]
    rng.shuffle(pairs)
    return ";".join(pairs)


def result_version(network: Network, result: Mapping[str, Any]) -> str:
    """What a result says it is, or the version that was asked for (github.com/containernetworking/cni, pkg/invoke)."""
    return str(result.get("cniVersion") or network.version)


def addresses(result: Mapping[str, Any], ifname: str) -> list[str]:
    """Addresses of the container's interface in a result, without prefix length; empty if the result does not name it.

    A result without `interfaces` (old plugins) counts as naming it.
    """
    interfaces: Sequence[Mapping[str, Any]] = result.get("interfaces") or []
    mine = {index for index, entry in enumerate(interfaces) if entry.get("name") == ifname and entry.get("sandbox")}
    found: list[str] = []
    for entry in result.get("ips") or []:
        index = entry.get("interface")
        if (index in mine) if interfaces else True:
            found.append(str(entry.get("address", "")).partition("/")[0])
    return found
