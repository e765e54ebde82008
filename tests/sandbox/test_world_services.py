"""What a program in a node meets beyond EC2 and the metadata: AWS's other services, and names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from sandbox.base import http
from sandbox.face.client import Sandbox
from sandbox.world import services
from tests.sandbox.ec2_kit import loopback


@pytest.fixture
def url() -> Iterator[str]:
    server = http.serve(loopback(), services.answer)
    address: Any = server.address
    yield f"http://{address[0]}:{address[1]}"
    server.close()


@pytest.mark.parametrize(
    ("name", "action", "members", "said"),
    [
        ("sts", "get_caller_identity", {}, "service sts (GetCallerIdentity)"),
        ("iam", "list_roles", {}, "service iam (ListRoles)"),
        ("ssm", "get_parameter", {"Name": "p"}, "service ssm (GetParameter)"),
        ("sqs", "list_queues", {}, "service sqs (ListQueues)"),
        ("eks", "describe_cluster", {"name": "c"}, "service eks (GET /clusters/c)"),
        ("route53", "list_hosted_zones", {}, "service route53 (GET /2013-04-01/hostedzone)"),
        ("s3", "get_object", {"Bucket": "b", "Key": "a&b"}, "service s3 (GET /b/a%26b)"),
    ],
)
def test_each_protocol_says_which_service_is_not_simulated(
    url: str, name: str, action: str, members: dict[str, str], said: str
) -> None:
    retries = Config(retries={"total_max_attempts": 1})
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-west-2"}
    client = boto3.client(name, endpoint_url=url, config=retries, **keys)  # type: ignore[call-overload]  # any name
    with pytest.raises(ClientError) as caught:
        getattr(client, action)(**members)
    error = caught.value.response["Error"]
    assert error["Code"] == "NotSimulated"
    assert error["Message"].startswith(f"{said}; of AWS there are EC2 and the instance metadata here")


def test_what_names_no_service_is_refused_too(url: str) -> None:
    def told(*, method: str = "GET", target: str = "/", body: bytes = b"", **headers: str) -> str:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return services.answer(http.Request(method, target, named, body, "10.0.0.4")).body.decode()

    form = "application/x-www-form-urlencoded; charset=utf-8"
    said = told(method="POST", body=b"Action=AssumeRoleWithWebIdentity", content_type=form)
    assert "<Message>service of an unsigned call (AssumeRoleWithWebIdentity); " in said
    scope = "key%2F20300101%2Fus-west-2%2Fs3%2Faws4_request"
    assert "service s3 (GET /b/k)" in told(target=f"/b/k?X-Amz-Credential={scope}")
    assert "(PUT /<x>)" in told(method="PUT", target="/<x>")


@pytest.mark.root
def test_a_client_in_a_node_is_told_by_the_nodes_environment(world: Sandbox) -> None:
    code = "import boto3; boto3.client('sts').get_caller_identity()"
    done = world.node_exec("node-1", [sys.executable, "-c", code])
    assert "(NotSimulated) when calling the GetCallerIdentity operation: service sts (" in done.error_text
    code = "import boto3; print(len(boto3.client('ec2').describe_vpcs()['Vpcs']))"
    assert int(world.node_exec("node-1", [sys.executable, "-c", code]).text) >= 1


@pytest.mark.root
def test_a_name_is_asked_for_in_the_node_and_not_at_the_machines_resolver(world: Sandbox) -> None:
    code = """
import socket, subprocess
resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
resolver.bind(("127.0.0.1", 53))
resolver.settimeout(30)
with subprocess.Popen(["getent", "hosts", "somewhere.example"]) as asking:
    print(resolver.recv(512))
    asking.kill()
"""
    done = world.node_exec("node-1", [sys.executable, "-c", code])
    assert "somewhere" in done.text, done.error_text
