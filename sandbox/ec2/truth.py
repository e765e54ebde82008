"""The EC2 truth of one account and region: state and rules, with no socket, namespace, clock or chance of its own.

This is the face that the rest of the sandbox uses; it is put together from layers, each with its own rules:
`ledger` (tables, indexes, events), `network` (VPCs, subnets, tags), `groups`, `reservations`, `addresses`, `enis`,
`trunks`, `life` (states of instances), and here their launch and end.
Every public change is wholly done or not at all, raises `errors.Ec2Error` as EC2 would, and is told to the views
before it returns. Lookups (`eni`, `instance`, `enis_of`, `holder` ...) are cheap and safe from any thread.

    truth = Truth(clock, random.Random(1))
    vpc = truth.create_vpc(["10.0.0.0/16"])
    subnet = truth.create_subnet(vpc.vpc_id, "10.0.0.0/20", "us-west-2a")
    node = truth.run_instance("m5.large", subnet.subnet_id)
    truth.assign_ipv4(node.primary_eni_id, count=3)

Served by `api.Api(truth)` and `imds.Imds(truth)` over `http.serve(listener, handler)`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from sandbox.ec2 import errors
from sandbox.ec2.addresses import Wanted
from sandbox.ec2.enis import NOTHING, Delays
from sandbox.ec2.life import Life, checked_hops
from sandbox.ec2.limits import Catalogue
from sandbox.ec2.network import checked_tags
from sandbox.ec2.records import NO_TAGS, Attachment, Eni, Group, Instance, Permission, Subnet, Tags, Vpc
from sandbox.ec2.space import Policy
from sandbox.ec2.views import Clock, View

__all__ = ["Clock", "Delays", "Eni", "Group", "Instance", "Permission", "Subnet", "Truth", "View", "Vpc", "Wanted"]

DEFAULT_IMAGE = "ami-0123456789abcdef0"


class Truth(Life):
    """The whole truth. `delays` (seconds in the states between), `api.lag` and `imds.lag` may be set at any time,
    as may `quotas`, `images` (ids that can be launched), `key_names` (key pairs that exist) and `wired_vpc` (the one
    that a data plane carries: instances are launched nowhere else; empty without one)."""

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        *,
        region: str = "us-west-2",
        account: str = "123456789012",
        policy: Policy = "dense",
        types: Catalogue | None = None,
    ) -> None:
        super().__init__(clock, rng, region=region, account=account, policy=policy, types=types)
        self.delays = Delays()
        self.images = {DEFAULT_IMAGE}
        self.key_names: set[str] = set()
        self.wired_vpc = ""

    def run_instance(
        self,
        instance_type: str,
        subnet_id: str,
        *,
        groups: Sequence[str] = (),
        private_ip: str | None = None,
        addresses: Sequence[str] = (),
        count: int = 0,
        prefixes: Sequence[str] = (),
        prefix_count: int = 0,
        ipv6: Wanted = NOTHING,
        delete_on_termination: bool = True,
        description: str = "",
        hop_limit: int = 1,
        tokens_required: bool = True,
        metadata_on: bool = True,
        image_id: str = DEFAULT_IMAGE,
        key_name: str = "",
        user_data: bytes = b"",
        tags: Tags = NO_TAGS,
        eni_tags: Tags = NO_TAGS,
    ) -> Instance:
        """An instance with its primary ENI at device 0 of card 0; views hear `eni_attached`. Returned while `pending`.

        `addresses`, `count`, `prefixes`, `prefix_count`, `ipv6` are what the primary ENI holds besides its primary
        address. Raises NO_TYPE, INVALID_VALUE (hop limit) and what `create_eni` raises, and the type's limits;
        NOT_SIMULATED outside `wired_vpc`.
        """
        checked_hops(hop_limit)
        with self._change():
            if image_id not in self.images:
                raise errors.NO_IMAGE(id=image_id)
            if key_name and key_name not in self.key_names:
                raise errors.NO_KEY(name=key_name)
            kind = self.types.get(instance_type)
            subnet = self.subnet(subnet_id)
            # The sandbox's router has one table of routes: two VPCs on it would reach each other, or collide. ENIs need
            # no such check, as one is attached in its own VPC only.
            if self.wired_vpc and subnet.vpc_id != self.wired_vpc:
                raise errors.NOT_SIMULATED(
                    what=f"launching outside {self.wired_vpc}, the one VPC of this world's network"
                )
            labels = checked_tags(tags)
            ipv4 = Wanted(tuple(addresses), count, tuple(prefixes), prefix_count)
            _check_launch(kind.name, kind.prefixes, ipv4, kind.ipv4_per_eni - 1, ipv6, kind.ipv6_per_eni)
            instance_id = self._new_id("i")
            attachment = Attachment(
                attachment_id=self._new_id("eni-attach"),
                instance_id=instance_id,
                device=0,
                card=0,
                status="attached",
                attached_at=self.clock.now(),
                delete_on_termination=delete_on_termination,
                seen=True,
            )
            new = self._plan_eni(subnet_id, private_ip, ipv4, ipv6, groups, description, eni_tags, attachment)
            instance = Instance(
                instance_id=instance_id,
                instance_type=instance_type,
                vpc_id=subnet.vpc_id,
                subnet_id=subnet_id,
                zone=subnet.zone,
                state="pending",
                launched_at=self.clock.now(),
                image_id=image_id,
                reservation_id=self._new_id("r"),
                primary_eni_id=new.eni.eni_id,
                private_ip=new.eni.primary_ip,
                hop_limit=hop_limit,
                tokens_required=tokens_required,
                metadata_on=metadata_on,
                key_name=key_name,
                user_data=user_data,
                tags=labels,
            )
            self._put_new(new)
            self._put_instance(instance)
            self._tell("eni_attached", new.eni.eni_id)
            self._after(self.delays.launch, lambda: self._finish(instance, "running"), "launch")
            return instance

    def terminate_instance(self, instance_id: str) -> Instance:
        """As `terminate_instances`, for one."""
        return self.terminate_instances([instance_id])[0]

    def terminate_instances(self, ids: Sequence[str]) -> list[Instance]:
        """End instances, all or none: their ENIs go (DeleteOnTermination) or become available. Twice is once.

        Returns them in the states they were in before. Raises NO_INSTANCE.
        """
        with self._change():
            found = [self.instance(instance_id) for instance_id in dict.fromkeys(ids)]
            for before in found:
                if before.state not in ("shutting-down", "terminated"):
                    self._put_instance(replace(before, state="shutting-down", ended_at=self.clock.now()))
                    self._after(self.delays.terminate, partial(self._finish_terminate, before.instance_id), "terminate")
            return found

    def _finish_terminate(self, instance_id: str) -> None:
        for eni in self.enis_of(instance_id):
            if eni.attachment is None:
                continue
            self._part_branches(eni)
            if eni.attachment.delete_on_termination:
                self._forget_eni(eni)
                self._give_back(eni)
                self._drop_eni(eni)
                if eni.attachment.seen:
                    self._tell("eni_detached", eni.eni_id)
            else:
                self._finish_detach(eni.eni_id, eni.attachment.attachment_id)
        self._put_instance(replace(self._instances[instance_id], state="terminated"))

    def forget_instance(self, instance_id: str) -> None:
        """Drop a terminated instance, as AWS does about an hour later. Raises NO_INSTANCE, WRONG_STATE."""
        with self._change():
            instance = self.instance(instance_id)
            if instance.state != "terminated":
                raise errors.WRONG_STATE(instance=instance_id, state=instance.state)
            self._note(instance, instance_id)
            del self._instances[instance_id]

    def caller(self, address: str, vpc_id: str | None = None) -> Instance | None:
        """The instance that speaks from this address: any address, alone or in a prefix, of its ENIs."""
        with self.lock:
            eni = self.holder(address, vpc_id)
            return self._instances.get(eni.instance_id) if eni is not None else None


def _check_launch(name: str, prefixes: bool, ipv4: Wanted, room: int, ipv6: Wanted, room6: int) -> None:
    """The type's limits, before anything is taken."""
    if (ipv4.any_prefix or ipv6.any_prefix) and not prefixes:
        raise errors.PREFIX_NEEDS_NITRO(type=name)
    if ipv4.slots > room:
        raise errors.LIMIT_ADDRESSES()
    if ipv6.slots > room6:
        raise errors.LIMIT_IPV6()
