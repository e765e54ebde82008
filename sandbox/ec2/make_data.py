"""Makes the data files of this folder anew: `python -m sandbox.ec2.make_data`.

`ec2_model.json` is botocore's description of the EC2 API, cut to the actions that are simulated (the whole of it
costs 40 MiB of memory); `instance_types.json` is moto's collection of DescribeInstanceTypes answers, cut to what
limits depend on. Its CurrentGeneration is left out: it denies m5 and m6i, which AWS's pages list as current. Both
sources are under Apache-2.0. A test makes both in memory and compares, so that an update of either library is noticed.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

DATA: Final = Path(__file__).parent / "data"
SHAPE_KEYS: Final = ("type", "enum", "required", "idempotencyToken", "min", "max")
MEMBER_KEYS: Final = ("shape", "locationName", "queryName", "idempotencyToken")


def _package_file(package: str, *parts: str) -> Any:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"{package} is not installed")
    return json.loads(gzip.decompress(Path(spec.submodule_search_locations[0], *parts).read_bytes()))


def model(actions: Iterable[str]) -> dict[str, Any]:
    """The API's description for these actions only: `version`, `namespace`, `operations`, `shapes`, `others`
    (the names of all actions that are not simulated)."""
    full = _package_file("botocore", "data", "ec2", "2016-11-15", "service-2.json.gz")
    wanted = sorted(actions)
    operations = {}
    todo: list[str] = []
    for name in wanted:
        operation = full["operations"][name]
        operations[name] = {end: operation[end]["shape"] for end in ("input", "output") if end in operation}
        todo += operations[name].values()
    shapes: dict[str, Any] = {}
    while todo:
        name = todo.pop()
        if name in shapes:
            continue
        source = full["shapes"][name]
        shape = {key: source[key] for key in SHAPE_KEYS if key in source}
        if name == "InstanceType":
            del shape["enum"]  # scenarios make up types
        if "members" in source:
            shape["members"] = {
                member: {key: ref[key] for key in MEMBER_KEYS if key in ref}
                for member, ref in source["members"].items()
            }
            todo += [ref["shape"] for ref in source["members"].values()]
        if "member" in source:
            shape["member"] = {key: source["member"][key] for key in MEMBER_KEYS if key in source["member"]}
            todo.append(source["member"]["shape"])
        shapes[name] = shape
    return {
        "version": full["metadata"]["apiVersion"],
        "namespace": full["metadata"]["xmlNamespace"],
        "operations": operations,
        "shapes": dict(sorted(shapes.items())),
        "others": sorted(full["operations"].keys() - set(wanted)),
    }


def collected_types() -> dict[str, Any]:
    """By name, DescribeInstanceTypes answers as moto has collected them."""
    found: dict[str, Any] = _package_file("moto", "ec2", "resources", "instance_types.json.gz")
    return found


def instance_types() -> dict[str, Any]:
    """`types`: name to [index into `shapes`, vCPUs, memory in MiB]; a shape is a row of `limits._unpack`."""
    full = collected_types()
    shapes: list[list[object]] = []
    types: dict[str, list[int]] = {}
    for name, entry in sorted(full.items()):
        network = entry["NetworkInfo"]
        cards = sorted(network.get("NetworkCards", []), key=lambda card: int(card["NetworkCardIndex"]))
        shape: list[object] = [
            network["MaximumNetworkInterfaces"],
            network["Ipv4AddressesPerInterface"],
            network.get("Ipv6AddressesPerInterface", 0),
            [card["MaximumNetworkInterfaces"] for card in cards] or [network["MaximumNetworkInterfaces"]],
            network.get("DefaultNetworkCardIndex", 0),
            entry.get("Hypervisor", ""),
            entry["BareMetal"],
            entry["ProcessorInfo"]["SupportedArchitectures"],
            network.get("EfaSupported", False),
        ]
        if shape not in shapes:
            shapes.append(shape)
        types[name] = [shapes.index(shape), entry["VCpuInfo"]["DefaultVCpus"], entry["MemoryInfo"]["SizeInMiB"]]
    return {"shapes": shapes, "types": types}


def text(data: object) -> str:
    """The one way in which both files are written."""
    return json.dumps(data, separators=(",", ":")) + "\n"


def main() -> None:
    from sandbox.ec2.api import actions

    DATA.mkdir(exist_ok=True)
    for name, data in (("ec2_model.json", model(actions())), ("instance_types.json", instance_types())):
        (DATA / name).write_text(text(data))
        print(f"{DATA / name}: {(DATA / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
