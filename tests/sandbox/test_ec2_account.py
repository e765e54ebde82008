"""The account: signatures, policies, quotas, and buckets that count instances. By boto3 over HTTP."""

from __future__ import annotations

import http.client
import re
from typing import Any
from urllib.parse import urlencode, urlsplit

import boto3
import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from sandbox.ec2.account.iam import decode
from sandbox.ec2.account.policy import Policy, Target
from sandbox.ec2.account.signature import Credential
from sandbox.ec2.api import Api
from tests.sandbox.ec2_kit import Account, make_account, model, refused, signed, state

BODY = urlencode({"Action": "DescribeVpcs", "Version": "2016-11-15"})


@pytest.fixture
def a() -> Account:
    return make_account()


def client(a: Account, key: str, secret: str, session: str | None = None, region: str = "us-west-2") -> Any:
    return boto3.client(
        "ec2", endpoint_url=a.url, region_name=region, aws_access_key_id=key, aws_secret_access_key=secret,
        aws_session_token=session, config=Config(retries={"total_max_attempts": 1}),
    )  # fmt: skip


def answer(a: Account, headers: dict[str, str], body: str = BODY, target: str = "/", method: str = "POST") -> str:
    """The error code of a request with these headers, or its status."""
    connection = http.client.HTTPConnection(urlsplit(a.url).netloc, timeout=10)
    connection.request(method, target, body, headers)
    got = connection.getresponse()
    text = got.read().decode()
    connection.close()
    found = re.search("<Code>(.*)</Code>", text)
    return f"{got.status} {found[1]}" if found else str(got.status)


# --- signatures -----------------------------------------------------------------------------------------------------


def test_signed_requests_are_served(a: Account) -> None:
    assert answer(a, signed(f"{a.url}/", BODY)) == "200"
    request = AWSRequest("GET", f"{a.url}/", params={"Action": "DescribeVpcs", "Version": "2016-11-15"})
    request.params["X-Amz-Expires"] = "60"
    SigV4QueryAuth(Credentials("key", "secret"), "ec2", "us-west-2").add_auth(request)
    parts = urlsplit(request.prepare().url)
    assert answer(a, {}, "", f"{parts.path}?{parts.query}", "GET") == "200"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, "403 MissingAuthenticationToken"),
        ({"Authorization": "Basic a2V5OnNlY3JldA=="}, "400 IncompleteSignature"),
        ({"Authorization": "AWS4-HMAC-SHA256 Credential=key"}, "400 IncompleteSignature"),
    ],
)
def test_unsigned_requests_are_refused(a: Account, change: dict[str, str], code: str) -> None:
    before = state(a.truth)
    assert answer(a, change) == code
    assert state(a.truth) == before


def test_a_signature_holds_for_one_request_only(a: Account) -> None:
    headers = signed(f"{a.url}/", BODY)
    assert answer(a, headers, BODY.replace("Vpcs", "Subnets")) == "403 SignatureDoesNotMatch"
    assert answer(a, headers, target="/?x=1") == "403 SignatureDoesNotMatch"
    assert answer(a, {**headers, "X-Amz-Date": "yesterday"}) == "400 IncompleteSignature"
    assert answer(a, {**headers, "X-Amz-Security-Token": "x"}) == "403 InvalidClientTokenId"
    short = re.sub("/us-west-2", "", headers["Authorization"])
    assert answer(a, {**headers, "Authorization": short}) == "400 IncompleteSignature"


def test_who_signs_wrongly_is_told_how(a: Account) -> None:
    a.api.iam.add_key(Credential("session-key", "other", "session-token"), "root")
    for made, code in (
        (client(a, "nobody", "secret"), "AuthFailure"),
        (client(a, "key", "wrong"), "SignatureDoesNotMatch"),
        (client(a, "key", "secret", region="eu-west-1"), "SignatureDoesNotMatch"),
        (client(a, "session-key", "other"), "InvalidClientTokenId"),
        (client(a, "session-key", "other", "stale"), "InvalidClientTokenId"),
    ):
        with refused(a, code):
            made.create_network_interface(SubnetId=a.subnet.subnet_id)
        made.close()
    good = client(a, "session-key", "other", "session-token")
    assert good.describe_vpcs()["Vpcs"]
    a.api.iam.remove_key("session-key")
    with refused(a, "AuthFailure"):
        good.describe_vpcs()
    good.close()


@pytest.mark.parametrize(("shift", "served"), [(-890, True), (890, True), (-910, False), (910, False)])
def test_a_signature_expires_after_a_quarter_of_an_hour(a: Account, shift: float, served: bool) -> None:
    import time

    a.api.iam._wall = lambda: time.time() + shift
    assert answer(a, signed(f"{a.url}/", BODY)) == ("200" if served else "400 RequestExpired")


# --- policies -----------------------------------------------------------------------------------------------------

# The managed AmazonEKS_CNI_Policy, and the one of its documentation for a cluster's own ENIs, cut to what is tested.
CNI = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface",
            "ec2:Describe*"], "Resource": "*"},
        {"Effect": "Allow", "Action": ["ec2:CreateTags"], "Resource": ["arn:aws:ec2:*:*:network-interface/*"]},
    ],
}  # fmt: skip
SCOPED = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "ec2:CreateNetworkInterface",
         "Resource": ["arn:aws:ec2:*:*:network-interface/*"],
         "Condition": {"StringEquals": {"aws:RequestTag/cluster.k8s.amazonaws.com/name": "c1"}}},
        {"Effect": "Allow", "Action": "ec2:CreateNetworkInterface",
         "Resource": ["arn:aws:ec2:*:*:subnet/*", "arn:aws:ec2:*:*:security-group/*"],
         "Condition": {"ArnEquals": {"ec2:Vpc": "arn:aws:ec2:us-west-2:123456789012:vpc/{vpc}"}}},
        {"Effect": "Allow", "Action": ["ec2:DeleteNetworkInterface", "ec2:AttachNetworkInterface"],
         "Resource": ["arn:aws:ec2:*:*:network-interface/*"],
         "Condition": {"StringEquals": {"aws:ResourceTag/cluster.k8s.amazonaws.com/name": "c1"}}},
        {"Effect": "Allow", "Action": "ec2:AttachNetworkInterface", "Resource": "arn:aws:ec2:*:*:instance/*"},
        {"Effect": "Deny", "Action": "ec2:*", "Resource": "*",
         "Condition": {"StringEquals": {"aws:ResourceTag/locked": "yes"}}},
    ],
}  # fmt: skip


def member(a: Account, *documents: dict[str, Any]) -> Any:
    a.api.iam.add_role("cni", documents)
    a.api.iam.add_key(Credential("cni-key", "cni-secret"), "cni")
    return client(a, "cni-key", "cni-secret")


def test_a_role_may_what_its_policy_allows(a: Account) -> None:
    ec2 = member(a, CNI)
    eni_id = ec2.create_network_interface(SubnetId=a.subnet.subnet_id)["NetworkInterface"]["NetworkInterfaceId"]
    ec2.create_tags(Resources=[eni_id], Tags=[{"Key": "k", "Value": "v"}])
    assert ec2.describe_instances()["Reservations"]
    for call, kw in (
        (ec2.delete_network_interface, {"NetworkInterfaceId": eni_id}),
        (ec2.create_tags, {"Resources": [a.node.instance_id], "Tags": [{"Key": "k", "Value": "v"}]}),
        (ec2.delete_network_interface, {"NetworkInterfaceId": eni_id, "DryRun": True}),
        (ec2.get_instance_metadata_defaults, {}),
    ):
        with refused(a, "UnauthorizedOperation", "You are not authorized to perform this operation. User: arn:aws:sts"):
            call(**kw)
    with refused(a, "DryRunOperation"):
        ec2.create_network_interface(SubnetId=a.subnet.subnet_id, DryRun=True)
    with pytest.raises(ClientError) as caught:
        ec2.delete_network_interface(NetworkInterfaceId=eni_id)
    response = caught.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 403
    text = response["Error"]["Message"]
    assert "is not authorized to perform: ec2:DeleteNetworkInterface on resource: arn:aws:ec2:us-west-2:" in text
    assert "because no identity-based policy allows the ec2:DeleteNetworkInterface action" in text
    told = decode(text.rpartition(" ")[2])
    assert (told["allowed"], told["explicitDeny"]) == (False, False)
    assert told["context"]["resource"].endswith(f"network-interface/{eni_id}")
    ec2.close()


def test_conditions_on_tags_and_on_the_vpc(a: Account) -> None:
    scoped = {**SCOPED, "Statement": [dict(one) for one in SCOPED["Statement"]]}  # type: ignore[arg-type, index]
    scoped["Statement"][1] = {  # type: ignore[index]
        **scoped["Statement"][1],  # type: ignore[index]
        "Condition": {"ArnEquals": {"ec2:Vpc": f"arn:aws:ec2:us-west-2:123456789012:vpc/{a.vpc.vpc_id}"}},
    }
    ec2 = member(a, scoped)
    tags = [{"ResourceType": "network-interface", "Tags": [{"Key": "cluster.k8s.amazonaws.com/name", "Value": "c1"}]}]
    ours = ec2.create_network_interface(SubnetId=a.subnet.subnet_id, Groups=a.groups[:1], TagSpecifications=tags)
    eni_id = ours["NetworkInterface"]["NetworkInterfaceId"]
    elsewhere = a.truth.create_vpc(["10.9.0.0/16"])
    foreign = a.truth.create_subnet(elsewhere.vpc_id, "10.9.0.0/24", "us-west-2a").subnet_id
    theirs = a.new()
    for kw in ({"SubnetId": a.subnet.subnet_id}, {"SubnetId": foreign, "TagSpecifications": tags}):
        with refused(a, "UnauthorizedOperation"):
            ec2.create_network_interface(**kw)
    with refused(a, "UnauthorizedOperation"):
        ec2.attach_network_interface(NetworkInterfaceId=theirs, InstanceId=a.node.instance_id, DeviceIndex=1)
    ec2.attach_network_interface(NetworkInterfaceId=eni_id, InstanceId=a.node.instance_id, DeviceIndex=1)
    a.truth.create_tags([eni_id], {"locked": "yes"})
    with refused(a, "UnauthorizedOperation", "with an explicit deny in an identity-based policy"):
        ec2.delete_network_interface(NetworkInterfaceId=eni_id)
    ec2.close()


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ({}, "Statement is missing"),
        ({"Version": "2008-10-17", "Statement": [{}]}, "2008-10-17"),
        ({"Statement": [{"Effect": "Perhaps", "Action": "*", "Resource": "*"}]}, "Perhaps"),
        ({"Statement": [{"Effect": "Allow", "NotAction": "*", "Resource": "*"}]}, "NotAction"),
        ({"Statement": [{"Effect": "Allow", "Action": "*", "Principal": "*", "Resource": "*"}]}, "Principal"),
        ({"Statement": [{"Effect": "Allow", "Action": "*"}]}, "Resource"),
        ({"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "${aws:username}"}]}, "variable"),
        ({"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {
            "NumericLessThan": {"aws:RequestTag/x": "1"}}}}, "NumericLessThan"),
        ({"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": {
            "StringEquals": {"aws:SourceIp": "1"}}}}, "aws:SourceIp"),
    ],
)  # fmt: skip
def test_what_a_policy_may_not_hold_is_refused_by_name(document: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=re.escape(what)):
        Policy(document)


def test_wild_cards_and_deny() -> None:
    policy = Policy({"Statement": [
        {"Effect": "Allow", "Action": ["ec2:Create*", "EC2:describe?pcs"], "Resource": "arn:*:vpc/vpc-?"},
        {"Effect": "Deny", "Action": "ec2:CreateTags", "Resource": "*"},
    ]})  # fmt: skip
    vpc = Target("arn:aws:ec2:us-west-2:1:vpc/vpc-1")
    assert policy.verdict("ec2:CreateSubnet", vpc) == "allow"
    assert policy.verdict("ec2:DescribeVpcs", vpc) == "allow"
    assert policy.verdict("ec2:CreateTags", vpc) == "deny"
    assert policy.verdict("ec2:DeleteVpc", vpc) == "none"
    assert policy.verdict("ec2:CreateSubnet", Target("arn:aws:ec2:us-west-2:1:vpc/vpc-10")) == "none"


# --- quotas and buckets ---------------------------------------------------------------------------------------------


def test_quotas_are_data_and_hold(a: Account) -> None:
    assert a.truth.quotas["enis-per-region"] == 5000
    a.truth.quotas |= {"enis-per-region": 3, "groups-per-eni": 2, "rules-per-group": 1, "subnets-per-vpc": 3}
    a.new()
    a.new()
    with refused(a, "NetworkInterfaceLimitExceeded"):
        a.new()
    with refused(a, "SecurityGroupsPerInterfaceLimitExceeded"):
        a.ec2.modify_network_interface_attribute(NetworkInterfaceId=a.eni, Groups=a.groups[:3])
    with refused(a, "RulesPerSecurityGroupLimitExceeded"):
        a.ec2.authorize_security_group_egress(
            GroupId=a.groups[0], IpPermissions=[{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "9.0.0.0/8"}]}]
        )
    with refused(a, "SubnetLimitExceeded"):
        a.ec2.create_subnet(VpcId=a.vpc.vpc_id, CidrBlock="10.0.99.0/24")


def test_launches_cost_a_token_per_instance(a: Account) -> None:
    """The bucket of resources is apart from that of requests: 1,000 tokens, 2 a second, for RunInstances."""
    a.api.buckets.on = True
    a.api.buckets.set_rate("TerminateInstances", 10_000, 0)
    a.api.buckets.set_rate("TerminateInstances resources", 5, 1)
    ids = [a.truth.run_instance("t3.micro", a.subnet.subnet_id).instance_id for _ in range(6)]
    with refused(a, "RequestLimitExceeded"):
        a.ec2.terminate_instances(InstanceIds=ids)
    a.ec2.terminate_instances(InstanceIds=ids[:4])
    with refused(a, "RequestLimitExceeded"):
        a.ec2.terminate_instances(InstanceIds=ids[4:])
    a.clock.time += 1
    a.ec2.terminate_instances(InstanceIds=ids[4:])
    assert {a.truth.instance(one).state for one in ids} == {"terminated"}


def test_calls_take_their_time_if_they_are_to(a: Account) -> None:
    slept: list[float] = []
    api = Api(a.truth, model=model(), sleep=slept.append)
    form = b"Action=DescribeVpcs&Version=2016-11-15"
    assert api.handle(form).status == 200
    assert slept == []
    api.latency.on = True
    api.latency.set("DescribeVpcs", 2, 3)
    for _ in range(5):
        assert api.handle(form).status == 200
    assert all(2 <= one <= 3 for one in slept)
    assert len(set(slept)) == 5
    assert 0.05 <= api.latency.of("DescribeSubnets") <= 0.25
    with pytest.raises(ValueError, match="least=3"):
        api.latency.set("DescribeVpcs", 3, 2)
