"""Whether the ids in a request can be ids at all: EC2 looks at their form before it looks for the thing.

The form is prefix, hyphen, and 17 hexadecimal digits or, of old resources, 8 (EC2 guide, "Resource IDs"). The codes
are spelled as the error code page of the API reference spells them; where it has none, the code is `unconfirmed`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sandbox.ec2 import errors

ENI: Final = ("InvalidNetworkInterfaceId", "eni")
GROUP: Final = ("InvalidGroupId", "sg")
INSTANCE: Final = ("InvalidInstanceID", "i")
SUBNET: Final = ("InvalidSubnetID", "subnet")
VPC: Final = ("InvalidVpcID", "vpc")
MEMBERS: Final[Mapping[str, tuple[str, str]]] = {
    "NetworkInterfaceId": ENI,
    "NetworkInterfaceIds": ENI,
    "TrunkInterfaceId": ENI,
    "BranchInterfaceId": ENI,
    "InstanceId": INSTANCE,
    "InstanceIds": INSTANCE,
    "SubnetId": SUBNET,
    "SubnetIds": SUBNET,
    "VpcId": VPC,
    "VpcIds": VPC,
    "GroupId": GROUP,
    "GroupIds": GROUP,
    "Groups": GROUP,
    "SecurityGroupIds": GROUP,
    "ImageId": ("InvalidAMIID", "ami"),
    "AttachmentId": ("InvalidNetworkInterfaceAttachmentId", "eni-attach"),
    "SecurityGroupRuleIds": ("InvalidSecurityGroupRuleId", "sgr"),
}
_FORM: Final = re.compile(r"([0-9a-f]{17}|[0-9a-f]{8})")


def check(members: Mapping[str, Any]) -> None:
    """Raises MALFORMED for the first id that cannot be one."""
    for name, value in _strings(members):
        kind, prefix = MEMBERS[name]
        if not value.startswith(f"{prefix}-") or not _FORM.fullmatch(value[len(prefix) + 1 :]):
            raise errors.Ec2Error(
                f"{kind}.Malformed",
                errors.MALFORMED.text.format(id=value, prefix=prefix),
                source=errors.MALFORMED.source,
            )


def _strings(members: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in members.items():
        if isinstance(value, dict):
            yield from _strings(value)
        elif isinstance(value, list):
            for one in value:
                if isinstance(one, dict):
                    yield from _strings(one)
                elif name in MEMBERS and isinstance(one, str):
                    yield name, one
        elif name in MEMBERS and isinstance(value, str):
            yield name, value
