"""Stopping, starting and rebooting instances, and the options of their metadata service.

A stopped instance keeps its id, its ENIs and all their addresses (EC2 guide, "Stop and start Amazon EC2 instances");
a reboot keeps everything. The views hear `eni_detached` of the ENIs of an instance that stops, with the instance
already `stopped`, and `eni_attached` when it runs again; of one that is launched they have heard it already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sandbox.ec2 import errors
from sandbox.ec2.records import Instance, InstanceState
from sandbox.ec2.trunks import Trunks
from sandbox.ec2.views import Event


@dataclass(frozen=True, slots=True)
class MetadataDefaults:
    """The account's defaults for new instances; None: no preference."""

    hop_limit: int | None = None
    tokens: str | None = None
    endpoint: str | None = None
    tags: str | None = None


class Life(Trunks):
    """Adds the states of instances between launch and end."""

    metadata_defaults = MetadataDefaults()
    metadata_ipv6 = False  # whether the metadata of every instance answers over IPv6 too
    rebooted: Callable[[str], None] | None = None  # told of each reboot, of which the records know nothing

    def stop_instance(self, instance_id: str) -> Instance:
        """As `stop_instances`, for one."""
        return self.stop_instances([instance_id])[0]

    def stop_instances(self, ids: Sequence[str]) -> list[Instance]:
        """Begin to stop all of them or none; returns them as they were before. Raises NO_INSTANCE, NOT_STOPPABLE."""
        with self._change():
            found = [self.instance(instance_id) for instance_id in dict.fromkeys(ids)]
            for before in found:
                if before.state in ("shutting-down", "terminated"):
                    raise errors.NOT_STOPPABLE(instance=before.instance_id)
            for before in found:
                if before.state in ("pending", "running"):
                    stopping = replace(before, state="stopping", ended_at=self.clock.now())
                    self._put_instance(stopping)
                    self._after(self.delays.stop, partial(self._finish, stopping, "stopped", "eni_detached"), "stop")
            return found

    def start_instance(self, instance_id: str) -> Instance:
        """As `start_instances`, for one."""
        return self.start_instances([instance_id])[0]

    def start_instances(self, ids: Sequence[str]) -> list[Instance]:
        """Begin to start all of them or none; returns them as they were before. Raises NO_INSTANCE, NOT_STARTABLE."""
        with self._change():
            found = [self.instance(instance_id) for instance_id in dict.fromkeys(ids)]
            for before in found:
                if before.state in ("shutting-down", "terminated", "stopping"):
                    raise errors.NOT_STARTABLE(instance=before.instance_id)
            for before in found:
                if before.state == "stopped":
                    pending = replace(before, state="pending", launched_at=self.clock.now(), ended_at=None)
                    self._put_instance(pending)
                    self._after(self.delays.start, partial(self._finish, pending, "running", "eni_attached"), "start")
            return found

    def reboot_instance(self, instance_id: str) -> None:
        """As `reboot_instances`, for one."""
        self.reboot_instances([instance_id])

    def reboot_instances(self, ids: Sequence[str]) -> None:
        """Asked for and not waited for; nothing that EC2 knows changes. All or none: NO_INSTANCE, NOT_REBOOTABLE."""
        with self._change():
            found = [self.instance(instance_id) for instance_id in dict.fromkeys(ids)]
            for instance in found:
                if instance.state not in ("pending", "running", "stopping"):
                    raise errors.NOT_REBOOTABLE(instance=instance.instance_id)
        for instance in found:
            if self.rebooted is not None:
                self.rebooted(instance.instance_id)

    def _finish(self, was: Instance, then: InstanceState, event: Event | None = None) -> None:
        """The next state, unless the instance has left the one it was in, if only to start anew. `event`: what the
        views hear of its ENIs."""
        instance = self._instances.get(was.instance_id)
        if instance is None or (instance.state, instance.launched_at) != (was.state, was.launched_at):
            return
        self._put_instance(replace(instance, state=then))
        for eni in self.enis_of(was.instance_id):
            if event is not None and eni.plugged and eni.interface_type != "efa-only":
                self._tell(event, eni.eni_id)

    def set_metadata_options(
        self,
        instance_id: str,
        *,
        hop_limit: int | None = None,
        tokens_required: bool | None = None,
        on: bool | None = None,
    ) -> Instance:
        """Change what is not None. Raises NO_INSTANCE, WRONG_STATE, INVALID_VALUE."""
        with self._change():
            instance = self.instance(instance_id)
            if instance.state in ("shutting-down", "terminated"):
                raise errors.WRONG_STATE(instance=instance_id, state=instance.state)
            checked_hops(hop_limit)
            instance = replace(
                instance,
                hop_limit=instance.hop_limit if hop_limit is None else hop_limit,
                tokens_required=instance.tokens_required if tokens_required is None else tokens_required,
                metadata_on=instance.metadata_on if on is None else on,
            )
            self._put_instance(instance)
            return instance


def checked_hops(hop_limit: int | None) -> None:
    """API reference, ModifyInstanceMetadataOptions: 1 to 64. Raises INVALID_VALUE."""
    if hop_limit is not None and not 1 <= hop_limit <= 64:
        raise errors.INVALID_VALUE(value=hop_limit, name="HttpPutResponseHopLimit", why="From 1 to 64.")
