"""The EC2 actions that start, stop and reboot instances and set the options of their metadata service."""

from __future__ import annotations

from dataclasses import replace

from sandbox.ec2 import errors
from sandbox.ec2.actions.instances import metadata_options, state_changes
from sandbox.ec2.actions.registry import Call, Result, action
from sandbox.ec2.life import checked_hops


@action("StopInstances", "InstanceIds Force")
def stop_instances(call: Call) -> Result:
    """Force takes away the time to flush file systems, which nothing here needs: it changes nothing."""
    found = call.truth.stop_instances(call.members["InstanceIds"])
    return {"StoppingInstances": state_changes(found, {"running": "stopping", "pending": "stopping"})}


@action("StartInstances", "InstanceIds")
def start_instances(call: Call) -> Result:
    found = call.truth.start_instances(call.members["InstanceIds"])
    return {"StartingInstances": state_changes(found, {"stopped": "pending"})}


@action("RebootInstances", "InstanceIds")
def reboot_instances(call: Call) -> Result:
    call.truth.reboot_instances(call.members["InstanceIds"])
    return {}


@action("ModifyInstanceMetadataOptions", "InstanceId HttpTokens HttpPutResponseHopLimit HttpEndpoint")
def modify_instance_metadata_options(call: Call) -> Result:
    members = call.members
    instance = call.truth.set_metadata_options(
        members["InstanceId"],
        hop_limit=members.get("HttpPutResponseHopLimit"),
        tokens_required=members["HttpTokens"] == "required" if "HttpTokens" in members else None,
        on=members["HttpEndpoint"] == "enabled" if "HttpEndpoint" in members else None,
    )
    return {
        "InstanceId": instance.instance_id,
        "InstanceMetadataOptions": {**metadata_options(call, instance), "State": "pending"},
    }


@action("GetInstanceMetadataDefaults")
def get_instance_metadata_defaults(call: Call) -> Result:
    defaults = call.truth.metadata_defaults
    return {
        "AccountLevel": {
            "HttpTokens": defaults.tokens,
            "HttpPutResponseHopLimit": defaults.hop_limit,
            "HttpEndpoint": defaults.endpoint,
            "ManagedBy": "account",
        }
    }


@action("ModifyInstanceMetadataDefaults", "HttpTokens HttpPutResponseHopLimit HttpEndpoint")
def modify_instance_metadata_defaults(call: Call) -> Result:
    """`no-preference` and -1 take a default back (API reference). They hold for launches from then on."""
    members, truth = call.members, call.truth
    new = truth.metadata_defaults
    if not members.keys() & {"HttpTokens", "HttpPutResponseHopLimit", "HttpEndpoint"}:
        raise errors.MISSING_PARAMETER(name="httpTokens, httpPutResponseHopLimit or httpEndpoint")
    if "HttpPutResponseHopLimit" in members:
        hops = members["HttpPutResponseHopLimit"]
        if hops != -1:
            checked_hops(hops)
        new = replace(new, hop_limit=None if hops == -1 else hops)
    for member, field in (("HttpTokens", "tokens"), ("HttpEndpoint", "endpoint")):
        if member in members:
            value = members[member]
            new = replace(new, **{field: None if value == "no-preference" else value})
    truth.metadata_defaults = new
    return {"Return": True}
