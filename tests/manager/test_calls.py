"""The manager's EC2 client against the sandbox's EC2 over HTTP: what it asks, and failures of all kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.ec2 import IDLE_S, Ec2
from clients.ec2_codes import outcome_unknown
from core.errors import Ec2Error
from sandbox.ec2.faults import Fault
from tests.manager.steps_kit import held
from tests.sandbox.ec2_kit import Account
from tests.unit.hand_clock import HandClock

# --- questions ----------------------------------------------------------------------------------------------


def connections(a: Account) -> int:
    """Established connections to the endpoint, from the kernel (proc(5), /proc/net/tcp)."""
    port = f":{int(a.url.rpartition(':')[2]):04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2].endswith(port) and line.split()[3] == "01" for line in lines)


def test_connections_that_nobody_uses_are_given_back(a: Account, ec2: Ec2, clock: HandClock) -> None:
    """A server closes an idle connection as it likes, and the next call on it would have an unknown outcome."""
    others = connections(a)
    ec2.instance_enis(a.node.instance_id)
    assert connections(a) == others + 1
    clock.sleep(IDLE_S / 2)
    ec2.close_idle()
    assert connections(a) == others + 1
    clock.sleep(IDLE_S / 2)
    ec2.close_idle()
    assert connections(a) == others
    assert ec2.instance_enis(a.node.instance_id)
    clock.sleep(IDLE_S)
    # The next call does not use what is stale, even if nobody has looked meanwhile.
    assert ec2.instance_enis(a.node.instance_id)
    assert connections(a) == others + 1


def test_enis_of_the_instance(a: Account, ec2: Ec2) -> None:
    a.truth.assign_ipv4(a.eni, count=3)
    a.truth.assign_ipv4(a.eni, prefix_count=1)
    (eni,) = ec2.instance_enis(a.node.instance_id)
    truth = a.truth.eni(a.eni)
    assert (eni.eni_id, eni.mac, eni.primary_ip, eni.subnet_id) == (a.eni, truth.mac, truth.primary_ip, truth.subnet_id)
    assert set(eni.addresses) == held(a, a.eni)
    assert len(eni.prefixes) == 1
    assert eni.groups == tuple(a.groups[:1])
    assert eni.attachment is not None
    assert (eni.attachment.device, eni.attachment.status, eni.attachment.delete_on_termination) == (0, "attached", True)
    assert eni.kind == "interface"


def test_subnets_with_most_room_first(a: Account, ec2: Ec2) -> None:
    found = ec2.subnets(a.vpc.vpc_id, "us-west-2a")
    assert [subnet.subnet_id for subnet in found] == [a.subnet.subnet_id, a.small.subnet_id]
    assert found[0].tags == {"kubernetes.io/role/cni": "1"}
    assert found[1].free == a.truth.free_addresses(a.small.subnet_id)


def test_limits_of_a_type_that_no_table_knows(a: Account, ec2: Ec2) -> None:
    found = ec2.limits("sandbox.room")
    assert (found.enis, found.ipv4_per_eni, found.cards, found.max_pods) == (4, 15, 1, 58)
    # The bound of the default card, not the sum over the cards.
    assert ec2.limits("sandbox.cards").enis == 2
    with pytest.raises(Ec2Error) as caught:
        ec2.limits("no.such")
    assert caught.value.api_code == "InvalidInstanceType"


# --- failures of all kinds --------------------------------------------------------------------------------------


def test_throttled_calls_wait_and_give_up_with_their_code(a: Account, ec2: Ec2, clock: HandClock) -> None:
    a.truth.faults.add(Fault("DescribeSubnets", error="RequestLimitExceeded", status=503, times=None))
    with pytest.raises(Ec2Error) as caught:
        ec2.subnets(a.vpc.vpc_id, "us-west-2a")
    assert (caught.value.api_code, caught.value.action) == ("RequestLimitExceeded", "DescribeSubnets")
    assert ec2.counts()["DescribeSubnets"] == {"RequestLimitExceeded": 5}
    assert sum(clock.slept) > 3


def listing(item: str) -> bytes:
    """An answer of DescribeNetworkInterfaces with one ENI."""
    what = "DescribeNetworkInterfacesResponse"
    return f"<{what}><networkInterfaceSet><item>{item}</item></networkInterfaceSet></{what}>".encode()


NONSENSE = [
    b"",
    b"\xff\xfe",
    b"{}",
    b"<html><body>no</body></html>",
    listing(""),
    listing("<networkInterfaceId>eni-1</networkInterfaceId><macAddress>nonsense</macAddress>"),
    b"<a>" * 500,
]


@pytest.mark.parametrize("body", NONSENSE)
@pytest.mark.parametrize("status", [200, 500])
def test_nonsense_is_an_error_never_a_value(a: Account, ec2: Ec2, body: bytes, status: int) -> None:
    a.truth.faults.add(Fault("DescribeNetworkInterfaces", body=body, status=status))
    try:
        found = ec2.instance_enis(a.node.instance_id)
    except Ec2Error as error:
        unknown = outcome_unknown(error)
    else:
        # An answer without any content is an empty one.
        unknown = found == ()
    assert unknown
    assert len(ec2.instance_enis(a.node.instance_id)) == 1


def test_no_credentials_is_an_error_of_its_own(a: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    nobody = Ec2("us-west-2", endpoint=a.url, clock=HandClock())
    with pytest.raises(Ec2Error) as caught:
        nobody.instance_enis(a.node.instance_id)
    assert caught.value.api_code == "NoCredentials"
    assert not outcome_unknown(caught.value)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    away = Ec2("us-west-2", endpoint="http://127.0.0.1:1", timeout=1, clock=HandClock())
    with pytest.raises(Ec2Error) as caught:
        away.subnets("vpc-1", "us-west-2a")
    assert outcome_unknown(caught.value)
