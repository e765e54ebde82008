"""The shipped cut of botocore's data is the one that the installed botocore gives."""

from __future__ import annotations

from pathlib import Path

import botocore.session
import pytest

from clients import ec2_model
from clients.ec2_model import CutLoader


@pytest.fixture(scope="module")
def fresh() -> dict[str, ec2_model.Json]:
    return ec2_model.cut()


@pytest.mark.parametrize("name", [ec2_model.MODEL, ec2_model.ENDPOINTS])
def test_shipped_files_are_a_fresh_cut(name: str, fresh: dict[str, ec2_model.Json]) -> None:
    assert ec2_model.read(name) == fresh[name], "run: python -m clients.ec2_model"


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    ec2_model.write(tmp_path)
    once = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ec2_model.write(tmp_path)
    assert once == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(once) == {ec2_model.MODEL, ec2_model.ENDPOINTS}


def test_the_cut_is_whole_and_small(fresh: dict[str, ec2_model.Json]) -> None:
    model = fresh[ec2_model.MODEL]
    assert set(model["operations"]) == set(ec2_model.ACTIONS)
    text = str(model)
    assert "documentation" not in text
    for shape in model["shapes"].values():
        for member in shape.get("members", {}).values():
            assert member["shape"] in model["shapes"]
    assert len(text) < 200_000


def test_other_services_are_botocores_own() -> None:
    session = botocore.session.Session()
    session.register_component("data_loader", CutLoader())
    assert "AssumeRoleWithWebIdentity" in session.get_service_model("sts").operation_names
    assert session.get_service_model("ec2").operation_names == sorted(ec2_model.ACTIONS)


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-west-2", "ec2.us-west-2.amazonaws.com"),
        ("cn-north-1", "ec2.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "ec2.us-gov-west-1.amazonaws.com"),
    ],
)
def test_partitions_are_kept(region: str, host: str) -> None:
    session = botocore.session.Session()
    session.register_component("data_loader", CutLoader())
    session.set_credentials("key", "secret")
    client = session.create_client("ec2", region_name=region)
    assert client.meta.endpoint_url == f"https://{host}"
