"""EC2 and the metadata behind HTTP in real time, without namespaces: `enid sandbox serve` and its commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner

from sandbox.base.failures import SandboxFailure
from sandbox.commands.main import sandbox
from sandbox.face.client import Sandbox
from sandbox.world import place, script
from sandbox.world.endpoint import Endpoint
from sandbox.world.scenario import Scenario
from tests.sandbox.conftest import until
from tests.sandbox.ec2_kit import Told, make_client

SCENARIO = {"nodes": [{"name": "blue"}, {"name": "green", "subnet": 1}], "seed": 5}


class Served:
    """A running `enid sandbox serve`, as its own process, as nobody in particular."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        argv = [sys.executable, "-c", "from sandbox.commands.main import sandbox; sandbox()"]
        self.process = subprocess.Popen(
            [*argv, "--dir", str(folder), "serve", "-o", "json", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            cwd=Path(__file__).parents[2],
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.end()[1])
        self.said: dict[str, Any] = json.loads(line)
        self.ec2 = make_client(self.said["ec2"])

    def end(self) -> tuple[int, str]:
        """Exit status and standard error, after its end."""
        _, err = self.process.communicate(timeout=20)
        return self.process.returncode, err.decode()

    def call(self, *words: str) -> Any:
        """`enid sandbox WORDS -o json`, decoded."""
        done = CliRunner().invoke(sandbox, ["--dir", str(self.folder), *words, "-o", "json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def metadata(self, node: str, path: str) -> str:
        base = self.said["metadata"][node]
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        put = urllib.request.Request(f"{base}/latest/api/token", method="PUT", headers=headers)
        with urllib.request.urlopen(put, timeout=10) as answer:
            token = answer.read().decode()
        get = urllib.request.Request(f"{base}/latest/{path}", headers={"X-aws-ec2-metadata-token": token})
        try:
            with urllib.request.urlopen(get, timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return str(error.code)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "scenario.json").write_text(json.dumps(SCENARIO))
    made = Served(tmp_path / "s", "--scenario", str(tmp_path / "scenario.json"))
    yield made
    made.process.kill()
    made.end()


def test_what_a_client_needs_is_told(served: Served) -> None:
    """It is enough for boto3, which reads nothing else here."""
    told = served.said["environment"]
    code = "import boto3; print(len(boto3.client('ec2').describe_instances()['Reservations']))"
    environ = {"PATH": os.environ["PATH"], "HOME": str(served.folder), **told}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, check=False, timeout=60)
    assert (done.stdout, told["AWS_ENDPOINT_URL_EC2"]) == (b"2\n", served.said["ec2"])


def test_two_nodes_two_kinds_of_endpoint(served: Served) -> None:
    seen = {node: served.metadata(node, "meta-data/instance-id") for node in ("blue", "green")}
    listed = [r["Instances"][0] for r in served.ec2.describe_instances()["Reservations"]]
    named = {instance["Tags"][0]["Value"]: instance["InstanceId"] for instance in listed}
    assert named == seen
    status = served.call("status")
    assert {node["name"]: node["instance_id"] for node in status["nodes"]} == seen
    assert status["enis"] == len(served.call("ledger")) == 2


def test_what_needs_nodes_to_run_in_is_refused_with_the_reason(served: Served) -> None:
    world = Sandbox.connect(served.folder)

    def execute() -> None:
        with world.exec("blue", ["true"]) as running:
            running.wait()

    why = "^this world of `enid sandbox serve` has no data plane: no packets, and no nodes to run in$"
    for ask in (execute, lambda: world.reboot("blue"), world.counters, lambda: world.capture("blue", 1)):
        with pytest.raises(SandboxFailure, match=why) as told:
            ask()
        assert (told.value.code, told.value.remedy) == ("bad-request", "`enid sandbox up` makes a world that has one")
    for words in ((), ("blue",)):
        logs = CliRunner().invoke(sandbox, ["--dir", str(served.folder), "logs", *words])
        assert (logs.exit_code, "`enid sandbox serve` writes to its own standard error" in logs.stderr) == (4, True)
    with pytest.raises(SandboxFailure, match="request 'nonsense' is not known; there are: down, fault") as told:
        world._tell("nonsense")
    assert "exec" not in told.value.text
    shown = CliRunner().invoke(sandbox, ["--dir", str(served.folder), "status"]).stdout
    assert "branches: nothing carries them: this world has no data plane\n" in shown


def test_a_metadata_port_is_its_nodes_and_not_its_addresss(served: Served) -> None:
    blue = next(node for node in served.call("status")["nodes"] if node["name"] == "blue")
    served.ec2.terminate_instances(InstanceIds=[blue["instance_id"]])
    wanted = {"ImageId": "ami-0123456789abcdef0", "InstanceType": "m5.large", "MinCount": 1, "MaxCount": 1}
    served.ec2.run_instances(**wanted, SubnetId=blue["subnet_id"], PrivateIpAddress=blue["primary_ip"])
    put = urllib.request.Request(
        f"{served.said['metadata']['blue']}/latest/api/token",
        method="PUT",
        headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(put, timeout=10):
        pass
    assert caught.value.code == 404
    caught.value.close()
    assert served.metadata("green", "meta-data/instance-id").startswith("i-")


def test_the_clock_goes_on_after_a_step_that_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(Told):
        def eni_attached(self, eni_id: str) -> None:
            raise OSError("no such device")

    endpoint = Endpoint(tmp_path / "s", Scenario.simple(1))
    try:
        endpoint.truth.subscribe(Broken())
        endpoint.truth.delays.attach = 0.01
        node = next(iter(endpoint.truth.instances.values()))
        eni = endpoint.truth.create_eni(node.subnet_id)
        endpoint.truth.attach_eni(eni.eni_id, node.instance_id, 1)
        until(lambda: "no such device" in capfd.readouterr().err, "the step has failed, and it is told")
        endpoint.script.load(script.parse('[{"at": 0.01, "set": "api-lag", "to": "5"}]'))
        until(lambda: endpoint.switches.current().get("api-lag") == "5", "the script's step is done")
    finally:
        endpoint.close()


def test_faults_from_a_file_and_one_by_one(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    steps = [
        {"rule": {"action": "DescribeVpcs", "error": "RequestLimitExceeded", "times": 2}},
        {"set": "api-lag", "to": "eni:new=1000"},
        {"after": "DescribeSubnets", "calls": 2, "change": {"do": "tag", "key": "touched", "value": "yes"}},
    ]
    file.write_text(json.dumps(steps))
    found = served.call("fault", "--file", str(file))
    assert found["rules"] == [{"id": "f1", "rule": {**steps[0]["rule"]}, "hits": 0, "left": 2}]  # type: ignore[dict-item]
    assert [one["id"] for one in found["waiting"]] == ["s1"]
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        served.ec2.describe_vpcs()
    for _ in range(2):
        served.ec2.describe_subnets()
    found = served.call("fault")
    assert (found["rules"][0]["hits"], found["waiting"]) == (1, [])
    enis = served.ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert [tag for eni in enis for tag in eni["TagSet"]] == [{"Key": "touched", "Value": "yes"}]
    assert served.call("fault", "--clear", "f1")["rules"] == []
    served.ec2.describe_vpcs()
    nope = CliRunner().invoke(sandbox, ["--dir", str(served.folder), "fault", "--clear", "nope"])
    assert nope.stderr == "enid: there is no fault 'nope'\n  remedy: `enid sandbox fault` lists what there is\n"
    assert served.call("fault", "--clear", "*")["switches"] == {"hits:DescribeVpcs": "1"}


def test_a_switch_is_shown_set_and_cleared(served: Served) -> None:
    """Its name alone changes nothing; every answer has one shape."""

    def says(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(sandbox, ["--dir", str(served.folder), "fault", *words])
        return done.exit_code, done.stdout

    assert says() == (0, "no faults\n")
    assert says("api-lag", "5") == (0, "api-lag=5\n")
    for _ in range(2):
        assert says("api-lag") == (0, "api-lag=5\n")
    shapes = [served.call("fault", *words) for words in ((), ("api-lag",), ("api-lag", "6"), ("--clear", "api-lag"))]
    assert [found.keys() == {"switches", "rules", "waiting", "failures"} for found in shapes] == [True] * 4
    assert [found["switches"].get("api-lag") for found in shapes] == ["5", "5", "6", None]
    for nothing in ("0", ""):
        assert says("api-lag", "5") == (0, "api-lag=5\n")
        assert says("api-lag", nothing) == (0, "no faults\n")
    assert Sandbox.connect(served.folder).fault("api-lag", 5) == {"api-lag": "5"}
    assert Sandbox.connect(served.folder).fault("api-lag", 0) == {}
    assert says("throttle", "on") == (0, "throttle=on\n")
    assert says("throttle", "off") == (0, "no faults\n")
    assert says("throttle") == (0, "throttle=off\n")
    for words in (("throtle",), ("throtle", "on")):
        done = CliRunner().invoke(sandbox, ["--dir", str(served.folder), "fault", *words])
        assert (done.exit_code, "'throtle' is not known here; near: throttle; there are: " in done.stderr) == (2, True)


def test_a_step_that_failed_is_shown_and_counted(served: Served, tmp_path: Path) -> None:
    world = Sandbox.connect(served.folder)
    world.time(rate=0)
    file = tmp_path / "faults.json"
    file.write_text('[{"at": 9, "clear": "*"}, {"at": 5, "stop": "blue"}, {"at": 6, "stop": "blue"}]')
    served.call("fault", "--file", str(file))
    blue = next(node.instance_id for node in world.nodes() if node.name == "blue")
    world.time(advance=5)
    served.ec2.terminate_instances(InstanceIds=[blue])
    world.time(advance=1)
    shown = CliRunner().invoke(sandbox, ["--dir", str(served.folder), "fault"]).stdout.splitlines()
    assert [line.split()[:2] for line in shown if line.startswith("s")] == [["s1", "waits"], ["s3", "failed"]]
    assert "there is no instance 'blue'" in shown[-1]
    status = CliRunner().invoke(sandbox, ["--dir", str(served.folder), "status"]).stdout
    assert "faults: waiting=1, failed=1" in " ".join(status.split())
    served.call("fault", "--clear", "*")
    status = CliRunner().invoke(sandbox, ["--dir", str(served.folder), "status"]).stdout
    assert "faults: none" in " ".join(status.split())


def test_a_bad_file_is_refused_by_name(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    file.write_text('[{"rule": {"action": "DescribeVpc", "delay": 1}}]')
    done = CliRunner().invoke(sandbox, ["--dir", str(served.folder), "fault", "--file", str(file)])
    assert done.exit_code == 2
    assert "script, step 1: fault: action 'DescribeVpc' fits no simulated action; near: DescribeVpcs" in done.stderr


def test_a_bad_file_to_begin_with(tmp_path: Path) -> None:
    """What only a world can tell is refused too, and nothing of the world is left."""
    file, folder = tmp_path / "faults.json", tmp_path / "s"
    file.write_text('[{"set": "throttle", "to": "on"}, {"at": 5, "reboot": "node-9"}]')
    done = CliRunner().invoke(sandbox, ["--dir", str(folder), "serve", "--faults", str(file)])
    assert done.exit_code == 2
    assert "script, step 2: there is no instance 'node-9'; there are: node-1\n" in done.stderr
    assert {entry.name for entry in folder.iterdir()} & {*place.SOCKETS, place.PID} == set()
    assert not place.running(folder)


def test_time_stopped_and_advanced(served: Served) -> None:
    """A lag of a thousand seconds is over at once, where the world's clock says so, and never while it stands."""
    stopped = served.call("time", "--rate", "0")
    assert stopped["rate"] == 0
    assert served.call("time")["now"] == stopped["now"]
    served.call("fault", "imds-lag", "1000")
    eni = served.call("ledger")[0]
    served.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni["eni_id"], SecondaryPrivateIpAddressCount=1)
    path = f"meta-data/network/interfaces/macs/{eni['mac']}/local-ipv4s"
    assert served.metadata("blue", path) == eni["primary_ip"]
    assert served.call("time", "--advance", "1000")["now"] == stopped["now"] + 1000
    assert len(served.metadata("blue", path).split()) == 2
    for words in (["--rate", "-1"], ["--advance", "-5"], *(["--rate", bad] for bad in ("nan", "inf", "-inf"))):
        done = CliRunner().invoke(sandbox, ["--dir", str(served.folder), "time", *words])
        assert (done.exit_code, "time: " in done.stderr) == (2, True)


def test_what_an_instance_is_told_of_its_life(served: Served) -> None:
    assert served.metadata("blue", "meta-data/spot/instance-action") == "404"
    served.call("fault", "imds-notice", '{"instance": "blue", "life_cycle": "spot", "spot_action": "terminate"}')
    told = json.loads(served.metadata("blue", "meta-data/spot/instance-action"))
    assert told["action"] == "terminate"
    assert served.metadata("blue", "meta-data/spot/termination-time") == told["time"]
    assert served.metadata("green", "meta-data/instance-life-cycle") == "on-demand"


def test_the_state_of_a_node_is_shown(served: Served) -> None:
    blue = next(node["instance_id"] for node in served.call("status")["nodes"] if node["name"] == "blue")
    served.ec2.stop_instances(InstanceIds=[blue])
    states = {node["name"]: node["state"] for node in served.call("status")["nodes"]}
    assert states == {"blue": "stopped", "green": "running"}
    lines = CliRunner().invoke(sandbox, ["--dir", str(served.folder), "status"]).stdout.splitlines()
    shown = {line.split()[0]: line.split()[3] for line in lines if line.startswith(("blue", "green", "node "))}
    assert shown == {"node": "state", "blue": "stopped", "green": "running"}
    served.ec2.terminate_instances(InstanceIds=[blue])
    lines = CliRunner().invoke(sandbox, ["--dir", str(served.folder), "status"]).stdout.splitlines()
    assert "holds:    1 node, 1 ENI, 0 pods" in lines


def test_a_trace_is_written(served: Served) -> None:
    world = Sandbox.connect(served.folder)
    file = world.trace(True)
    served.ec2.describe_vpcs()
    world.trace(False)
    served.ec2.describe_vpcs()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["kind"], line["action"]) for line in lines] == [("ec2", "DescribeVpcs")]


def test_its_life(served: Served, tmp_path: Path) -> None:
    """Two do not share a folder; `down` ends it and another may follow; one that was killed leaves no trouble."""
    again = CliRunner().invoke(sandbox, ["--dir", str(served.folder), "serve"])
    assert (again.exit_code, "runs in" in again.stderr) == (1, True)
    taken = served.said["ec2"].rpartition(":")[2]
    other = CliRunner().invoke(sandbox, ["--dir", str(tmp_path / "t"), "serve", "--port", taken])
    assert (other.exit_code, "Address already in use" in other.stderr) == (2, True)
    assert CliRunner().invoke(sandbox, ["--dir", str(served.folder), "down"]).exit_code == 0
    assert served.end() == (0, "")
    assert not place.running(served.folder)
    second = Served(served.folder)
    second.process.kill()
    second.end()
    until(lambda: not place.running(served.folder), "the lock is free")
    third = Served(served.folder)
    assert third.said["ec2"]
    third.process.kill()
    third.end()
