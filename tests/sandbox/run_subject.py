"""One run of random calls under faults and lags, for the test that compares two of them: `python run_subject.py SEED`.

A process of its own, so that the interpreter's hash seed differs between two runs as it does in life. Prints the trace.
"""

from __future__ import annotations

import random
import sys

from sandbox.ec2.views import View
from sandbox.face.inprocess import Account

SCRIPT = """[
  {"set": "api-lag", "to": "eni:new=2,instance=0"},
  {"rule": {"action": "Describe*", "error": "RequestLimitExceeded", "times": null, "chance": 0.1}},
  {"rule": {"action": "Assign*", "when": "after", "drop": true, "times": null, "chance": 0.1}},
  {"rule": {"action": "*NetworkInterface", "delay": 3, "times": 20, "skip": 5}},
  {"rule": {"action": "imds:GET *", "error": "Throttled", "text": "slow", "status": 429, "times": 9, "chance": 0.2}},
  {"rule": {"action": "Unassign*", "change": {"do": "assign", "count": 2}, "times": null, "chance": 0.3}},
  {"at": 20, "set": "imds-lag", "to": "eni:gone=30,5"},
  {"at": 40, "set": "attach-delay", "to": "4"},
  {"at": 60, "set": "imds-stuck", "to": "5"},
  {"at": 80, "set": "detach-stuck", "to": "3"},
  {"after": "AttachNetworkInterface", "calls": 5, "change": {"do": "detach", "device": "secondary"}},
  {"after": "Describe*", "calls": 50, "change": {"do": "tag", "key": "who", "value": "somebody"}},
  {"at": 150, "clear": "detach-stuck"},
  {"at": 160, "set": "throttle", "to": "on"}
]"""


class Quiet:
    """A view that looks away."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda eni_id: None


def run(seed: int, calls: int = 600) -> bytes:
    """The trace of so many calls that follow from the seed."""
    dice = random.Random(seed)
    account = Account(seed=seed, policy="random")
    truth = account.truth
    truth.types.register("sandbox.room", enis=4, ipv4=15)
    vpc = truth.create_vpc(["10.0.0.0/16"], ipv6_cidrs=["fd00:ec2::/56"])
    subnet = truth.create_subnet(vpc.vpc_id, "10.0.0.0/22", "us-west-2a", ipv6_cidr="fd00:ec2:0:1::/64").subnet_id
    nodes = [truth.run_instance("sandbox.room", subnet, tags={"Name": f"node-{n}"}) for n in range(6)]
    view: View = Quiet()  # type: ignore[assignment]  # answers to every name
    account.watch(view, 1.5)
    account.record()
    account.load(SCRIPT)
    for _ in range(calls):
        eni = dice.choice(sorted(truth.enis))
        node = dice.choice(nodes)
        attachment = truth.enis[eni].attachment
        eni_member = {"NetworkInterfaceId": eni}
        action, members = dice.choice(
            [
                ("CreateNetworkInterface", {"SubnetId": subnet, "ClientToken": f"{dice.random()}"}),
                ("AttachNetworkInterface", {**eni_member, "InstanceId": node.instance_id, "DeviceIndex": "1"}),
                ("AttachNetworkInterface", {**eni_member, "InstanceId": node.instance_id, "DeviceIndex": "2"}),
                (
                    "DetachNetworkInterface",
                    {"AttachmentId": attachment.attachment_id if attachment else "eni-attach-0"},
                ),
                ("DeleteNetworkInterface", eni_member),
                ("AssignPrivateIpAddresses", {**eni_member, "SecondaryPrivateIpAddressCount": "2"}),
                ("AssignPrivateIpAddresses", {**eni_member, "Ipv4PrefixCount": "1"}),
                ("AssignIpv6Addresses", {**eni_member, "Ipv6PrefixCount": "1"}),
                ("UnassignPrivateIpAddresses", {**eni_member, "PrivateIpAddress.1": truth.enis[eni].addresses[-1]}),
                ("DescribeNetworkInterfaces", {"NetworkInterfaceId.1": eni}),
                ("DescribeNetworkInterfaces", {"Filter.1.Name": "subnet-id", "Filter.1.Value.1": subnet}),
                ("DescribeInstances", {"InstanceId.1": node.instance_id}),
                ("DescribeSubnets", {"SubnetId.1": subnet}),
                (
                    "CreateSecurityGroup",
                    {"VpcId": vpc.vpc_id, "GroupName": f"g{dice.random()}", "GroupDescription": "x"},
                ),
                ("DescribeSecurityGroups", {"Filter.1.Name": "vpc-id", "Filter.1.Value.1": vpc.vpc_id}),
                ("StopInstances", {"InstanceId.1": nodes[0].instance_id}),
                ("StartInstances", {"InstanceId.1": nodes[0].instance_id}),
                ("CreateNetworkInterface", {"SubnetId": subnet, "InterfaceType": "trunk"}),
            ]
        )
        account.call(action, members, peer=dice.choice([node.private_ip, "192.0.2.1"]))
        imds = account.metadata(node.instance_id)
        try:
            for mac in (imds.get("network/interfaces/macs") or "").split():
                imds.get(f"network/interfaces/macs/{mac}local-ipv4s")
        except LookupError:
            pass
        account.advance(dice.choice([0, 0.1, 1]))
    return account.trace


if __name__ == "__main__":
    sys.stdout.buffer.write(run(int(sys.argv[1])))
