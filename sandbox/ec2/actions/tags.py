"""The EC2 actions on tags."""

from __future__ import annotations

from typing import Final

from sandbox.ec2.account.iam import KINDS
from sandbox.ec2.actions.registry import FILTERS, PAGING, Call, Getter, Result, action, page, select, tags_of
from sandbox.ec2.records import NO_TAGS, Eni, Group, Instance, Reservation, Subnet, Vpc


@action("CreateTags", "Resources Tags.Key Tags.Value")
def create_tags(call: Call) -> Result:
    call.truth.create_tags(call.members["Resources"], tags_of(call.members["Tags"]))
    return {}


@action("DeleteTags", "Resources Tags.Key Tags.Value")
def delete_tags(call: Call) -> Result:
    """Without a value the key is deleted whatever its value; without tags all go (API reference)."""
    wanted = call.members.get("Tags")
    tags_of(wanted or ())
    tags = {pair["Key"]: pair.get("Value") for pair in wanted} if wanted else None
    call.truth.delete_tags(call.members["Resources"], tags)
    return {}


Tag = tuple[str, str, str]  # resource id, key, value
TAG_FILTERS: Final[dict[str, Getter[Tag]]] = {
    "key": lambda _c, tag: (tag[1],),
    "resource-id": lambda _c, tag: (tag[0],),
    "resource-type": lambda _c, tag: (KINDS[tag[0].rpartition("-")[0]],),
    "value": lambda _c, tag: (tag[2],),
}


@action("DescribeTags", *FILTERS, *PAGING, filters=TAG_FILTERS)
def describe_tags(call: Call) -> Result:
    truth, reader = call.truth, call.reader
    with truth.lock:
        records: list[Vpc | Subnet | Group | Instance | Eni | Reservation] = [
            *reader.scan(truth.vpcs, "vpc-"),
            *reader.scan(truth.subnets, "subnet-"),
            *reader.scan(truth.groups, "sg-"),
            *reader.scan(truth.instances, "i-"),
            *reader.scan(truth.enis, "eni-"),
            *reader.scan(truth.reservations, "scr-"),
        ]
        every: list[Tag] = [(record.record_id, key, value) for record in records for key, value in record.tags.items()]
        found = select(call, every, TAG_FILTERS, lambda _tag: NO_TAGS)
        shown, token = page(call, found, "\0".join)
        return {
            "Tags": [
                {
                    "Key": key,
                    "ResourceId": resource_id,
                    "ResourceType": KINDS[resource_id.rpartition("-")[0]],
                    "Value": value,
                }
                for resource_id, key, value in shown
            ],
            "NextToken": token,
        }
