"""botocore's EC2 model, cut to the actions that we use.

The full model describes 700 actions and costs the manager 15 MiB; the list of endpoints of all services another
few. Both are cut once, by `python -m clients.ec2_model`, and shipped in `clients/data`; a test cuts anew from the
installed botocore and compares, so that an update of botocore cannot leave them behind. Everything else (signing,
parsing, credentials, STS) is botocore's own and unchanged.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from botocore.loaders import Loader  # type: ignore[import-untyped]  # botocore ships no types

API_VERSION: Final = "2016-11-15"
MODEL: Final = "ec2-2016-11-15.json.gz"
ENDPOINTS: Final = "endpoints.json.gz"
ACTIONS: Final = (
    "AssignPrivateIpAddresses",
    "AttachNetworkInterface",
    "CreateNetworkInterface",
    "CreateTags",
    "DeleteNetworkInterface",
    "DescribeInstanceTypes",
    "DescribeNetworkInterfaces",
    "DescribeSubnets",
    "DetachNetworkInterface",
    "ModifyNetworkInterfaceAttribute",
    "UnassignPrivateIpAddresses",
)
# sts is asked for credentials of a web identity or a role.
SERVICES: Final = ("ec2", "sts")

Json = dict[str, Any]


def cut_model(full: Mapping[str, Any], actions: Iterable[str] = ACTIONS) -> Json:
    """The model with these actions and the shapes that they reach, without its prose."""
    shapes: Json = {}

    def keep(name: str) -> None:
        if name in shapes:
            return
        shape = _without_prose(full["shapes"][name])
        shapes[name] = shape
        parts = [shape[part] for part in ("member", "key", "value") if part in shape]
        for member in [*shape.get("members", {}).values(), *parts]:
            keep(member["shape"])

    operations = {name: _without_prose(full["operations"][name]) for name in sorted(actions)}
    for operation in operations.values():
        for side in [operation.get("input"), operation.get("output"), *operation.get("errors", [])]:
            if side:
                keep(side["shape"])
    return {
        "version": full["version"],
        "metadata": full["metadata"],
        "operations": operations,
        "shapes": dict(sorted(shapes.items())),
    }


def cut_endpoints(full: Mapping[str, Any], services: Iterable[str] = SERVICES) -> Json:
    """The list of endpoints with these services only; partitions, regions and their DNS suffixes stay."""
    kept = set(services)
    partitions = [
        {**partition, "services": {name: value for name, value in partition["services"].items() if name in kept}}
        for partition in full["partitions"]
    ]
    return {**full, "partitions": partitions}


def _without_prose(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_prose(item) for key, item in value.items() if key != "documentation"}
    if isinstance(value, list):
        return [_without_prose(item) for item in value]
    return value


class CutLoader(Loader):  # type: ignore[misc]  # the base is untyped
    """botocore's loader, with the two cut files in the place of the full ones."""

    def load_service_model(self, service_name: str, type_name: str, api_version: str | None = None) -> Any:
        """The cut model for EC2's service description, botocore's own data for everything else."""
        if (service_name, type_name) == ("ec2", "service-2"):
            return read(MODEL)
        return super().load_service_model(service_name, type_name, api_version)

    def load_data(self, name: str) -> Any:
        """The cut list of endpoints, botocore's own data for everything else."""
        return read(ENDPOINTS) if name == "endpoints" else super().load_data(name)


def read(name: str) -> Json:
    """One of the shipped files. Raises OSError or ValueError if the installation is damaged."""
    packed = resources.files("clients").joinpath("data", name).read_bytes()
    decoded: Json = json.loads(gzip.decompress(packed))
    return decoded


def cut() -> dict[str, Json]:
    """Both files, cut anew from the installed botocore."""
    loader = Loader()
    return {
        MODEL: cut_model(loader.load_service_model("ec2", "service-2", API_VERSION)),
        ENDPOINTS: cut_endpoints(loader.load_data("endpoints")),
    }


def write(folder: Path) -> None:
    """Write both files into `folder`, the same bytes each time."""
    for name, content in cut().items():
        text = json.dumps(content, separators=(",", ":"), sort_keys=True)
        (folder / name).write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    write(Path(__file__).parent / "data")
