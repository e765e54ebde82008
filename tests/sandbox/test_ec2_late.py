"""Views that are late answer whole: what they still show may name what is gone, and that has a name all the same."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.base.http import Request
from sandbox.ec2.codec import Model
from sandbox.ec2.imds import TOKEN_HEADER, TOKEN_PATH, TTL_HEADER, Imds
from sandbox.ec2.truth import DEFAULT_IMAGE
from sandbox.ec2.views import SWEEP_FROM
from tests.sandbox.ec2_ask import ask, code
from tests.sandbox.ec2_kit import Account, make_account

LAGS = [{"": 10.0}, {"eni": 10.0}]  # of everything, and of ENIs only


@pytest.fixture
def a() -> Account:
    return make_account()


def metadata(a: Account, path: str) -> str:
    imds = Imds(a.truth)

    def request(method: str, path: str, headers: dict[str, str]) -> str:
        answer = imds(Request(method, path, headers, b"", a.node.private_ip))
        assert answer.status == 200
        return answer.body.decode()

    token = request("PUT", TOKEN_PATH, {TTL_HEADER: "60"})
    return request("GET", f"/latest/meta-data/{path}", {TOKEN_HEADER: token})


@pytest.mark.parametrize("lags", LAGS)
def test_a_late_eni_is_shown_in_a_group_that_is_gone(a: Account, lags: dict[str, float]) -> None:
    a.truth.api.set_lags(lags)
    a.truth.imds.set_lags(lags)
    old, new = a.groups[:2]
    a.truth.set_groups(a.eni, [new])
    a.truth.delete_group(old)

    def shown() -> list[Any]:
        enis = ask(a.api, "DescribeNetworkInterfaces", {})["NetworkInterfaces"]
        instances = ask(a.api, "DescribeInstances", {})["Reservations"][0]["Instances"]
        named = [{"Name": "group-name", "Values": ["group-0"]}]
        by_name = ask(a.api, "DescribeNetworkInterfaces", {"Filters": named})["NetworkInterfaces"]
        mac = a.truth.eni(a.eni).mac
        return [
            enis[0]["Groups"][0]["GroupName"],
            instances[0]["SecurityGroups"][0]["GroupName"],
            metadata(a, "security-groups"),
            metadata(a, f"network/interfaces/macs/{mac}/security-groups"),
            len(by_name),
        ]

    assert shown() == ["group-0", "group-0", "group-0", "group-0", 1]
    a.clock.time += 10
    assert shown() == ["group-1", "group-1", "group-1", "group-1", 0]


def test_a_late_subnet_has_all_its_addresses_free(a: Account) -> None:
    a.truth.api.lag = 10
    a.truth.delete_subnet(a.small.subnet_id)
    shown = {one["SubnetId"]: one for one in ask(a.api, "DescribeSubnets", {})["Subnets"]}
    assert shown[a.small.subnet_id]["AvailableIpAddressCount"] == 64 - 5
    free = [{"Name": "available-ip-address-count", "Values": ["59"]}]
    assert len(ask(a.api, "DescribeSubnets", {"Filters": free})["Subnets"]) == 1
    a.clock.time += 10
    assert len(ask(a.api, "DescribeSubnets", {})["Subnets"]) == len(shown) - 1


def test_the_count_of_free_addresses_is_as_late_as_the_enis(a: Account) -> None:
    a.truth.api.lag = 10
    before = a.free(a.subnet)
    eni = a.truth.create_eni(a.subnet.subnet_id, prefix_count=1)
    assert a.free(a.subnet) == before
    a.clock.time += 10
    assert a.free(a.subnet) == before - 1 - 16
    a.truth.delete_eni(eni.eni_id)
    assert a.free(a.subnet) == before - 1 - 16
    assert a.truth.free_addresses(a.subnet.subnet_id) == before


def test_a_launch_answers_with_the_network_that_a_late_view_does_not_show(a: Account) -> None:
    a.truth.api.lag = 10
    run = {
        "ImageId": DEFAULT_IMAGE,
        "InstanceType": "m5.large",
        "MinCount": 1,
        "MaxCount": 1,
        "SubnetId": a.subnet.subnet_id,
    }
    [made] = ask(a.api, "RunInstances", run)["Instances"]
    assert [one["PrivateIpAddress"] for one in made["NetworkInterfaces"]] == [made["PrivateIpAddress"]]
    assert made["SecurityGroups"][0]["GroupName"] == "default"
    wanted = {"Filters": [{"Name": "attachment.instance-id", "Values": [made["InstanceId"]]}]}
    assert ask(a.api, "DescribeNetworkInterfaces", wanted)["NetworkInterfaces"] == []


def test_permissions_are_no_enis(a: Account) -> None:
    """Their ids begin with those of ENIs."""
    a.truth.api.lag = 10
    made = a.truth.permit(a.eni, "210987654321", "INSTANCE-ATTACH")
    a.clock.time += 10
    a.truth.forbid(made.permission_id, force=True)
    for action, member in (("DescribeNetworkInterfaces", "NetworkInterfaces"), ("DescribeInstances", "Reservations")):
        assert len(ask(a.api, action, {})[member]) == 1
    assert code(ask(a.api, "DescribeTags", {})) == "ok"
    found = ask(a.api, "DescribeNetworkInterfacePermissions", {})["NetworkInterfacePermissions"]
    assert [one["NetworkInterfacePermissionId"] for one in found] == [made.permission_id]


def test_an_answer_is_what_it_was_when_it_was_asked_for(a: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text is made when the lock is free again, so the truth may be another one by then."""
    real = Model.answer

    def late(self: Model, *args: Any) -> bytes:
        monkeypatch.undo()
        a.truth.set_groups(a.eni, a.groups[1:2])
        a.truth.delete_group(a.groups[0])
        return real(self, *args)

    monkeypatch.setattr(Model, "answer", late)
    shown = ask(a.api, "DescribeNetworkInterfaces", {})["NetworkInterfaces"]
    assert shown[0]["Groups"] == [{"GroupId": a.groups[0], "GroupName": "group-0"}]


def test_a_reservation_is_as_late_as_what_is_new(a: Account) -> None:
    a.truth.api.set_lags({":new": 5.0, ":gone": 50.0})
    cidr = str(next(a.small.cidr.subnets(new_prefix=28)))
    made = a.truth.create_reservation(a.small.subnet_id, cidr, "prefix")

    def shown() -> list[Any]:
        answer = ask(a.api, "GetSubnetCidrReservations", {"SubnetId": a.small.subnet_id})
        return [one["Tags"] for one in answer["SubnetIpv4CidrReservations"]]

    assert shown() == []
    a.clock.time += 5
    assert shown() == [[]]
    a.truth.api.set_lags({"": 5.0})
    a.truth.create_tags([made.reservation_id], {"a": "b"})
    assert shown() == [[]]
    a.clock.time += 5
    assert shown() == [[{"Key": "a", "Value": "b"}]]


def test_an_earlier_lag_keeps_nothing_from_getting_stuck(a: Account) -> None:
    """Even if nobody has looked since that lag was over."""
    a.truth.imds.set_lags({"": 5.0})
    a.truth.assign_ipv4(a.eni, count=1)
    a.clock.time += 6
    a.truth.imds.set_lags({})
    a.truth.imds.stick(1)
    a.truth.assign_ipv4(a.eni, count=1)
    a.clock.time += 1000
    path = f"network/interfaces/macs/{a.truth.eni(a.eni).mac}/local-ipv4s"
    assert len(metadata(a, path).split()) == 2
    a.truth.assign_ipv4(a.eni, count=1)
    assert len(metadata(a, path).split()) == 4


def test_a_view_that_nobody_asks_forgets_what_is_over(a: Account) -> None:
    a.truth.api.lag = 5
    for _ in range(3 * SWEEP_FROM):
        eni = a.truth.create_eni(a.subnet.subnet_id)
        group = a.truth.create_group(a.vpc.vpc_id, "again")
        a.truth.delete_group(group.group_id)
        a.truth.delete_eni(eni.eni_id)
        a.truth.set_description(a.eni, eni.eni_id)
        a.clock.time += 6
    reader = a.truth.api
    assert len(reader._past) + len(reader._gone) <= 2 * SWEEP_FROM
    assert max(map(len, reader._past.values())) <= 2
