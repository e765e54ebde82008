"""What makes a simulator trustworthy: nothing is silently dropped, and what moto gets wrong is right here.

The table of moto's failings follows the actions; each test fails on moto 5.2.
"""

from __future__ import annotations

import http.client
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from botocore.exceptions import ClientError

from sandbox.ec2.actions.registry import ACTIONS
from sandbox.ec2.truth import DEFAULT_IMAGE, Wanted
from tests.sandbox.ec2_kit import Account, check, make_account, make_client, model, refused, signed, state

RUN = {"Action": "RunInstances", "ImageId": DEFAULT_IMAGE}


@pytest.fixture
def a() -> Account:
    return make_account()


def raw(a: Account, **form: Any) -> tuple[int, str]:
    """One request without boto3's own checks."""
    connection = http.client.HTTPConnection(urlsplit(a.url).netloc, timeout=10)
    body = urlencode({"Version": "2016-11-15", **form})
    connection.request("POST", "/", body, signed(f"{a.url}/", body))
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


# --- nothing is dropped -------------------------------------------------------------------------------------


def wire(action: str, path: str) -> str:
    """The form key of a member, with every list at its first item."""
    read = model()._read(model().operations[action]["input"])
    parts: list[str] = []
    for member in path.split("."):
        while read.kind == "list":
            parts.append("1")
            read = model()._read(read.item)
        wire_name, below = next((w, b) for w, (m, b) in read.members.items() if m == member)
        parts.append(wire_name)
        read = model()._read(below)
    while read.kind == "list":
        parts.append("1")
        read = model()._read(read.item)
    return ".".join(parts)


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_members_that_are_not_modelled_are_refused_by_name(a: Account, action: str) -> None:
    known = model().members(action)
    missing = [path for path in known if path not in ACTIONS[action].members]
    extra = [path for path in ACTIONS[action].members if path not in known and path != "DryRun"]
    assert extra == []
    before = state(a.truth)
    for path in missing:
        status, body = raw(a, Action=action, **{wire(action, path): "1"})
        assert status == 400
        assert f"<Code>NotSimulated</Code><Message>member {path} of action {action}</Message>" in body
    assert state(a.truth) == before


@pytest.mark.parametrize("action", [name for name in sorted(ACTIONS) if name.startswith("Describe")])
def test_filters_that_are_not_modelled_are_refused_by_name(a: Account, action: str) -> None:
    form = {"Action": action, "Filter.1.Name": "no-such-filter", "Filter.1.Value.1": "x"}
    status, body = raw(a, **form)
    assert (status, f"filter no-such-filter of action {action}" in body) == (400, True)


@pytest.mark.parametrize(
    ("form", "code", "text"),
    [
        ({"Action": "DescribeVolumes"}, "NotSimulated", "action DescribeVolumes"),
        ({"Action": "DescribeRouteTables"}, "NotSimulated", "action DescribeRouteTables"),
        ({"Action": "MakeCoffee"}, "InvalidAction", "The action MakeCoffee is not valid for this web service."),
        ({}, "MissingAction", "Action"),
        ({"Action": "DescribeVpcs", "Version": "2014-10-01"}, "NotSimulated", "2014-10-01"),
        ({"Action": "DescribeVpcs", "Nonsense": "1"}, "UnknownParameter", "Nonsense"),
        ({"Action": "DescribeVpcs", "VpcId": "vpc-1"}, "UnknownParameter", "VpcId"),
        ({"Action": "DescribeVpcs", "VpcId.0": "vpc-1"}, "UnknownParameter", "VpcId.0"),
        ({"Action": "DescribeVpcs", "VpcId.1.2": "vpc-1"}, "UnknownParameter", "VpcId.1.2"),
        ({"Action": "DescribeVpcs", "VpcId.x": "vpc-1"}, "UnknownParameter", "VpcId.x"),
        ({"Action": "DescribeVpcs", "VpcId.99999999999999": "v"}, "UnknownParameter", "VpcId.99"),
        ({"Action": "DescribeVpcs", "vpcId.1": "vpc-1"}, "UnknownParameter", "vpcId.1"),
        ({"Action": "DescribeVpcs", "MaxResults": "many"}, "InvalidParameterValue", "many"),
        ({"Action": "DescribeVpcs", "MaxResults": "٥"}, "InvalidParameterValue", "Not an integer"),
        ({"Action": "DescribeVpcs", "MaxResults": "9" * 5000}, "InvalidParameterValue", "Not an integer"),
        ({"Action": "DescribeVpcs", "DryRun": "maybe"}, "InvalidParameterValue", "maybe"),
        ({"Action": "DescribeVpcs", "Filter.1.Value.1": "x"}, "MissingParameter", "Filter.1.Name"),
        ({"Action": "DescribeVpcs", "Filter.1.Name": "vpc-id"}, "MissingParameter", "Filter.1.Value"),
        ({"Action": "DeleteNetworkInterface"}, "MissingParameter", "NetworkInterfaceId"),
        ({"Action": "AttachNetworkInterface", "DeviceIndex": "1"}, "MissingParameter", "NetworkInterfaceId"),
        ({**RUN, "MaxCount": "1"}, "MissingParameter", "MinCount"),
        ({**RUN, "MinCount": "1"}, "MissingParameter", "MaxCount"),
        ({"Action": "RunInstances", "MinCount": "1", "MaxCount": "1"}, "MissingParameter", "ImageId"),
        ({**RUN, "MinCount": "1", "MaxCount": "1"}, "NotSimulated", "InstanceType"),
        (
            {**RUN, "MinCount": "1", "MaxCount": "2", "InstanceType": "m5.large"},
            "NotSimulated",
            "MaxCount",
        ),
        (
            {**RUN, "MinCount": "1", "MaxCount": "1", "InstanceType": "m5.large"},
            "NotSimulated",
            "without a subnet",
        ),
        (
            {"Action": "CreateNetworkInterface", "SubnetId": "{subnet}", "InterfaceType": "lorry"},
            "InvalidParameterValue",
            "lorry",
        ),
    ],
)
def test_malformed(a: Account, form: dict[str, str], code: str, text: str) -> None:
    before = state(a.truth)
    status, body = raw(a, **{key: value.format(subnet=a.subnet.subnet_id) for key, value in form.items()})
    assert status == 400
    assert f"<Code>{code}</Code>" in body, body
    assert text in body
    assert state(a.truth) == before


def test_no_form_at_all(a: Account) -> None:
    for body in (b"\xff\xfe", b"a&b&c", b"=%zz&&&", b"<xml/>"):
        answer = a.api.handle(body)
        assert answer.status == 400
        assert b"<Code>" in answer.body


def test_unknown_actions_parse_as_errors_in_boto3(a: Account) -> None:
    """moto answers HTTP 500 with a page of HTML, on which botocore reports a parser error."""
    for call, kw in (
        (a.ec2.describe_volumes, {}),
        (a.ec2.describe_route_tables, {}),
        (a.ec2.attach_volume, {"Device": "x", "InstanceId": "i-1", "VolumeId": "vol-1"}),
    ):
        with pytest.raises(ClientError) as caught:
            call(**kw)
        assert caught.value.response["Error"]["Code"] == "NotSimulated"


# --- moto's failings, action by action ----------------------------------------------------------------------


def launch(a: Account, **network: Any) -> dict[str, Any]:
    interface = {"DeviceIndex": 0, "SubnetId": a.subnet.subnet_id, **network}
    answer: dict[str, Any] = a.ec2.run_instances(
        ImageId=DEFAULT_IMAGE, InstanceType="sandbox.room", MinCount=1, MaxCount=1, NetworkInterfaces=[interface]
    )
    [primary] = answer["Instances"][0]["NetworkInterfaces"]
    return a.describe(primary["NetworkInterfaceId"])


def test_run_honours_the_primary_eni(a: Account) -> None:
    assert launch(a)["Attachment"]["DeleteOnTermination"] is True
    assert launch(a, DeleteOnTermination=False)["Attachment"]["DeleteOnTermination"] is False
    assert len(launch(a, Ipv4PrefixCount=3)["Ipv4Prefixes"]) == 3
    assert len(launch(a, SecondaryPrivateIpAddressCount=3)["PrivateIpAddresses"]) == 4
    with refused(a, "PrivateIpAddressLimitExceeded"):
        launch(a, Ipv4PrefixCount=15)


def test_enis_keep_their_own_groups(a: Account) -> None:
    eni_id = a.new(Groups=a.groups[3:5])
    a.attach(eni_id, 1)
    assert {group["GroupId"] for group in a.describe(eni_id)["Groups"]} == set(a.groups[3:5])
    a.ec2.modify_network_interface_attribute(NetworkInterfaceId=eni_id, Groups=a.groups[5:6])
    assert [group["GroupId"] for group in a.describe(eni_id)["Groups"]] == a.groups[5:6]
    assert [group["GroupId"] for group in a.describe(a.eni)["Groups"]] == a.groups[:1]


def test_types_come_in_pages(a: Account) -> None:
    assert len(a.ec2.describe_instance_types()["InstanceTypes"]) == 100
    assert len(a.ec2.describe_instance_types(MaxResults=7)["InstanceTypes"]) == 7


@pytest.mark.parametrize("policy", ["dense", "random"])
def test_automatic_addresses_are_distinct_and_allowed(policy: Any) -> None:
    """moto gave 48 of 200 addresses of a fresh /24 to two or more ENIs, .0 to .3 among them."""
    a = make_account(policy)
    for _ in range(25):
        a.new(SubnetId=a.other_zone.subnet_id, SecondaryPrivateIpAddressCount=7)
    check(a.truth)
    assert a.free(a.other_zone) == 251 - 200
    for _ in range(51):
        a.new(SubnetId=a.other_zone.subnet_id)
    assert a.free(a.other_zone) == 0
    with refused(a, "InsufficientFreeAddressesInSubnet"):
        a.new(SubnetId=a.other_zone.subnet_id)
    check(a.truth)


def test_prefixes_count_sixteen_and_never_below_zero(a: Account) -> None:
    """Four blocks, of which the first and the last hold reserved addresses."""
    first = a.new(SubnetId=a.small.subnet_id, Ipv4PrefixCount=2)
    assert a.free(a.small) == 59 - 33
    with refused(a, "InsufficientCidrBlocks", "does not have enough free cidr blocks"):
        a.ec2.assign_private_ip_addresses(NetworkInterfaceId=first, Ipv4PrefixCount=1)
    with refused(a, "InvalidParameterValue", "There aren't sufficient free Ipv4 addresses or prefixes"):
        a.ec2.assign_private_ip_addresses(NetworkInterfaceId=first, Ipv4PrefixCount=2)
    a.ec2.delete_network_interface(NetworkInterfaceId=first)
    assert a.free(a.small) == 59


def test_filters_that_moto_lacks(a: Account) -> None:
    eni_id = a.new(SecondaryPrivateIpAddressCount=2)
    a.attach(eni_id, 1)
    secondary = a.truth.eni(eni_id).addresses[2]
    for name, value in (
        ("attachment.device-index", "1"),
        ("addresses.private-ip-address", secondary),
    ):
        found = a.ec2.describe_network_interfaces(Filters=[{"Name": name, "Values": [value]}])["NetworkInterfaces"]
        assert [one["NetworkInterfaceId"] for one in found] == [eni_id]
    for name, value in (("attachment.status", "attached"), ("operator.managed", "false")):
        both = a.ec2.describe_network_interfaces(Filters=[{"Name": name, "Values": [value]}])["NetworkInterfaces"]
        assert len(both) == 2


def test_tags_on_unknown_enis_are_refused_whole(a: Account) -> None:
    with refused(a, "InvalidNetworkInterfaceID.NotFound"):
        a.ec2.create_tags(Resources=[a.eni, "eni-0"], Tags=[{"Key": "k", "Value": "v"}])


def test_terminated_instances_leave_no_eni_in_use(a: Account) -> None:
    kept, gone = a.new(), a.new()
    a.attach(kept, 1)
    attachment_id = a.attach(gone, 2)
    a.ec2.modify_network_interface_attribute(
        NetworkInterfaceId=gone, Attachment={"AttachmentId": attachment_id, "DeleteOnTermination": True}
    )
    a.told.events.clear()
    a.ec2.terminate_instances(InstanceIds=[a.node.instance_id])
    assert {one["NetworkInterfaceId"] for one in a.ec2.describe_network_interfaces()["NetworkInterfaces"]} == {kept}
    assert a.describe(kept)["Status"] == "available"
    detached = sorted(event for event in a.told.events if event[0] == "eni_detached")
    assert detached == sorted(("eni_detached", eni_id) for eni_id in (a.eni, kept, gone))


# --- tokens, pages, dry runs --------------------------------------------------------------------------------


def test_client_token(a: Account) -> None:
    kw = {"ClientToken": "once", "Description": "d", "SecondaryPrivateIpAddressCount": 3}
    first = a.new(**kw)
    a.attach(first, 1)
    assert a.new(**kw) == first
    assert a.new(**{**kw, "ClientToken": "twice"}) != first
    with refused(a, "IdempotentParameterMismatch", "same client token"):
        a.new(**{**kw, "Description": "other"})
    # a token belongs to one action
    launched = a.ec2.run_instances(
        ImageId=DEFAULT_IMAGE,
        InstanceType="m5.large",
        MinCount=1,
        MaxCount=1,
        SubnetId=a.subnet.subnet_id,
        ClientToken="once",
    )
    again = a.ec2.run_instances(
        ImageId=DEFAULT_IMAGE,
        InstanceType="m5.large",
        MinCount=1,
        MaxCount=1,
        SubnetId=a.subnet.subnet_id,
        ClientToken="once",
    )
    assert launched["Instances"] == again["Instances"]


def test_a_refused_call_does_not_use_its_token_up(a: Account) -> None:
    kw = {"ClientToken": "t", "Groups": ["{later}"]}
    with refused(a, "InvalidGroup.NotFound"):
        a.new(**{**kw, "Groups": ["sg-00000000000000000"]})
    assert a.new(**{**kw, "Groups": a.groups[:1]}) in a.truth.enis


@pytest.mark.parametrize("size", [5, 7, 1000])
def test_pages_show_each_eni_once(a: Account, size: int) -> None:
    for _ in range(23):
        a.new()
    shown: list[str] = []
    token: dict[str, str] = {}
    while True:
        page = a.ec2.describe_network_interfaces(
            MaxResults=size, Filters=[{"Name": "vpc-id", "Values": [a.vpc.vpc_id]}], **token
        )
        found = [one["NetworkInterfaceId"] for one in page["NetworkInterfaces"]]
        assert len(found) <= size
        shown += found
        if "NextToken" not in page:
            break
        token = {"NextToken": page["NextToken"]}
        a.truth.delete_eni(next(eni_id for eni_id in found if not a.truth.eni(eni_id).attachment))
    assert len(set(shown)) == len(shown) == 24


@pytest.mark.parametrize(
    ("kw", "code"),
    [
        ({"MaxResults": 4}, "InvalidParameterValue"),
        ({"MaxResults": 1001}, "InvalidParameterValue"),
        ({"MaxResults": 10, "NetworkInterfaceIds": ["{eni}"]}, "InvalidParameterCombination"),
        ({"NextToken": "nonsense"}, "InvalidPaginationToken"),
        ({"NextToken": "WyJEZXNjcmliZVZwY3MiLCAidnBjLTAiXQ=="}, "InvalidPaginationToken"),
    ],
)
def test_bad_pages(a: Account, kw: dict[str, Any], code: str) -> None:
    if "NetworkInterfaceIds" in kw:
        kw = {**kw, "NetworkInterfaceIds": [a.eni]}
    status, body = raw(
        a,
        Action="DescribeNetworkInterfaces",
        **{("NetworkInterfaceId.1" if key.endswith("Ids") else key): value[0] if key.endswith("Ids") else value
           for key, value in kw.items()},
    )  # fmt: skip
    assert (status, f"<Code>{code}</Code>" in body) == (400, True)


def test_dry_run(a: Account) -> None:
    for call, kw in (
        (a.ec2.create_network_interface, {"SubnetId": a.subnet.subnet_id}),
        (a.ec2.create_tags, {"Resources": [a.eni], "Tags": [{"Key": "k", "Value": "v"}]}),
        (a.ec2.terminate_instances, {"InstanceIds": [a.node.instance_id]}),
    ):
        with refused(a, "DryRunOperation", "DryRun flag is set"):
            call(DryRun=True, **kw)
    status, body = raw(a, Action="DescribeVpcs", DryRun="true")
    assert (status, "DryRunOperation" in body) == (412, True)


def test_types_that_a_scenario_makes_up(a: Account) -> None:
    """An ENI of 4,000 addresses, which no real type has."""
    node = a.truth.run_instance("sandbox.4000", a.subnet.subnet_id)
    assigned = a.ec2.assign_private_ip_addresses(
        NetworkInterfaceId=node.primary_eni_id, SecondaryPrivateIpAddressCount=3999
    )
    assert len(assigned["AssignedPrivateIpAddresses"]) == 3999
    assert len(a.describe(node.primary_eni_id)["PrivateIpAddresses"]) == 4000
    with refused(a, "PrivateIpAddressLimitExceeded"):
        a.ec2.assign_private_ip_addresses(NetworkInterfaceId=node.primary_eni_id, SecondaryPrivateIpAddressCount=1)
    for bad in ({"enis": 0, "ipv4": 1}, {"enis": 1, "ipv4": 0}, {"enis": 1, "ipv4": 1, "cards": ()}):
        with pytest.raises(ValueError, match=r"sandbox\.bad"):
            a.truth.types.register("sandbox.bad", **bad)


def test_a_second_client_is_served_too(a: Account) -> None:
    other = make_client(a.url)
    assert other.describe_vpcs()["Vpcs"] == a.ec2.describe_vpcs()["Vpcs"]
    other.close()


def test_python_face_has_the_same_rules(a: Account) -> None:
    eni = a.truth.create_eni(a.subnet.subnet_id, prefix_count=1, ipv6=Wanted(count=1))
    assert (len(eni.prefixes), len(eni.ipv6_addresses)) == (1, 1)
    check(a.truth)
