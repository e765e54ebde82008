"""What does an EC2 call of the sandbox take at 1,000 ENIs of ten addresses, in process and over HTTP?

In process the bytes of a request go straight to the server's handler; over HTTP a client with one kept connection
speaks to a server in another process, which checks the signature. No SDK is measured: boto3 adds some 2 ms of its own
to each call. Throttling, faults and traces are off, as they are by default.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlencode

from bench.results import Answer, Figure, Options, Question, figure
from bench.stats import percentile
from sandbox.base import http as server
from sandbox.base.clocks import SteeredClock
from sandbox.ec2.account.iam import ROOT
from sandbox.ec2.api import Api
from sandbox.ec2.truth import Truth

ENIS: Final = 1000
CALLS: Final = 2000
REGION: Final = "us-west-2"
PER_INSTANCE: Final = 10
LIMITS_MS: Final = {"in process": 0.5, "over HTTP": 2.0}
_ADDRESS: Final = re.compile(rb"<privateIpAddress>([^<]+)</privateIpAddress>")
Send = Callable[[bytes, Mapping[str, str]], bytes]
Sign = Callable[[bytes], Mapping[str, str]]


def build(enis: int) -> tuple[Api, list[str], list[str]]:
    """An account with so many ENIs, all attached, ten addresses and a tag each; ids of ENIs and instances."""
    truth = Truth(SteeredClock(), random.Random(1))
    truth.types.register("bench.large", enis=PER_INSTANCE, ipv4=50)
    vpc = truth.create_vpc(["10.0.0.0/16"])
    subnet = truth.create_subnet(vpc.vpc_id, "10.0.0.0/16", "us-west-2a").subnet_id
    made, instances = [], []
    for number in range(enis):
        device = number % PER_INSTANCE
        if device == 0:
            instances.append(truth.run_instance("bench.large", subnet, count=9))
            eni_id = instances[-1].primary_eni_id
        else:
            eni_id = truth.create_eni(subnet, count=9).eni_id
            truth.attach_eni(eni_id, instances[-1].instance_id, device)
        truth.create_tags([eni_id], {"number": str(number)})
        made.append(eni_id)
    return Api(truth), made, [instance.instance_id for instance in instances]


def body(action: str, **members: str) -> bytes:
    """A request's form; members with `_` for `.`."""
    fields = {name.replace("_", "."): value for name, value in members.items()}
    return urlencode({"Action": action, "Version": "2016-11-15", **fields}).encode()


def signed(request: bytes, port: int) -> Mapping[str, str]:
    """The headers of a request that botocore has signed."""
    from botocore.auth import SigV4Auth  # type: ignore[import-untyped]  # has none
    from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]  # has none
    from botocore.credentials import Credentials  # type: ignore[import-untyped]  # has none

    kind = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    made = AWSRequest("POST", f"http://127.0.0.1:{port}/", headers=kind, data=request)
    SigV4Auth(Credentials(ROOT.access_key, ROOT.secret), "ec2", REGION).add_auth(made)
    return dict(made.headers.items())


def measure(send: Send, sign: Sign, enis: list[str], instances: list[str], calls: int) -> dict[str, list[float]]:
    """Seconds of each call, by its name."""
    dice = random.Random(2)
    found: dict[str, list[float]] = {}

    def timed(name: str, request: bytes) -> bytes:
        headers = sign(request)  # an SDK's work, not the sandbox's
        begun = time.perf_counter()
        answer = send(request, headers)
        found.setdefault(name, []).append(time.perf_counter() - begun)
        return answer

    describe = "DescribeNetworkInterfaces"
    for _ in range(calls):
        number = dice.randrange(len(enis))
        eni, instance = enis[number], instances[number // PER_INSTANCE]
        timed("describe by id", body(describe, NetworkInterfaceId_1=eni))
        timed("describe by tag", body(describe, Filter_1_Name="tag:number", Filter_1_Value_1=str(number)))
        by_instance = {"Filter_1_Name": "attachment.instance-id", "Filter_1_Value_1": instance}
        timed("describe by instance (10 ENIs)", body(describe, **by_instance))
        assign = body("AssignPrivateIpAddresses", NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount="1")
        address = _ADDRESS.findall(timed("assign", assign))[0].decode()
        unassign = body("UnassignPrivateIpAddresses", NetworkInterfaceId=eni, PrivateIpAddress_1=address)
        timed("unassign", unassign)
    return found


def in_process(enis: int, calls: int) -> dict[str, list[float]]:
    api, made, instances = build(enis)
    return measure(lambda request, _: _good(api.handle(request)).body, lambda _: {}, made, instances, calls)


def over_http(enis: int, calls: int) -> dict[str, list[float]]:
    command = [sys.executable, "-m", "bench.sandbox_calls", str(enis)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        if child.stdout is None or child.stdin is None:
            raise RuntimeError("no pipes")
        told = json.loads(child.stdout.readline())
        link = http.client.HTTPConnection("127.0.0.1", told["port"], timeout=20)

        def send(request: bytes, headers: Mapping[str, str]) -> bytes:
            link.request("POST", "/", request, headers)
            answer = link.getresponse()
            return _good(server.Response(answer.status, answer.read())).body

        found = measure(send, lambda request: signed(request, told["port"]), told["enis"], told["instances"], calls)
        link.close()
        child.stdin.close()
        child.wait(20)
    return found


def _good(answer: server.Response) -> server.Response:
    if answer.status != 200:
        raise RuntimeError(answer.body.decode())
    return answer


def answer(options: Options) -> Answer:
    """Each run builds both anew."""
    enis, calls = (20, 20) if options.quick else (ENIS, CALLS)
    ways = {"in process": in_process, "over HTTP": over_http}
    runs: dict[str, list[dict[str, list[float]]]] = {way: [] for way in ways}
    for run in range(options.runs):
        for way, work in ways.items():
            options.progress(f"run {run + 1} of {options.runs}: {way}, {enis} ENIs")
            runs[way].append(work(enis, calls))
    figures: list[Figure] = []
    for way, found in runs.items():
        for share, title in ((0.5, "p50"), (0.99, "p99")):
            for name in found[0]:
                values = [percentile(run[name], share) * 1000 for run in found]
                limit = LIMITS_MS[way] if share == 0.5 else None
                figures.append(figure(f"{way}, {title}", name, "ms", values, limit))
    return Answer(figures, [])


def main() -> None:
    """`python -m bench.sandbox_calls ENIS`: serve until standard input ends; says where, and what there is."""
    api, enis, instances = build(int(sys.argv[1]))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    serving = server.serve(listener, api)
    print(json.dumps({"port": listener.getsockname()[1], "enis": enis, "instances": instances}), flush=True)
    sys.stdin.read()
    serving.close()


QUESTION = Question(
    "How long does a call of EC2 take at 1,000 ENIs of ten addresses each?",
    (
        "what an SDK adds: boto3 takes some 2 ms of its own",
        "a world with a data plane, where a change also moves routes in the kernel",
    ),
    answer,
)

if __name__ == "__main__":
    main()
