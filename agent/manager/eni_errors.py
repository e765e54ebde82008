"""How a step of an ENI can fail beyond what EC2 says, so that what follows from it is right."""

from __future__ import annotations

from collections.abc import Sequence

from clients.ec2_codes import device_taken, pause_after
from core.backoff import LASTING
from core.errors import Ec2Error


class SubnetsFull(Ec2Error):
    """None of these subnets has a free address."""

    def __init__(self, subnets: Sequence[str], cause: Ec2Error) -> None:
        super().__init__(
            f"no free addresses in {', '.join(subnets)}", action=cause.action, api_code=cause.api_code, cause=cause.text
        )
        self.subnets = tuple(subnets)


class NotAttached(Ec2Error):
    """A new ENI could not be attached. `stranded` is its id if it could not be deleted either; `hopeful`: for now.

    `device_taken`: another ENI has the index, of which EC2's answers may tell only later.
    """

    def __init__(self, first: Ec2Error, eni_id: str, second: Ec2Error | None) -> None:
        cause = first.cause
        if second is not None:
            cause = f"{cause}; " * bool(cause) + f"{eni_id} could not be deleted: {second.text}"
        super().__init__(
            first.text, action=first.action, api_code=first.api_code, cause=cause, retry_after=first.retry_after,
            remedy=first.remedy,
        )  # fmt: skip
        self.stranded = eni_id if second is not None else ""
        self.hopeful = second is None or pause_after(second) is not LASTING
        self.device_taken = device_taken(first)


class PerhapsAttached(NotAttached):
    """Nobody knows whether a new ENI is attached: EC2 is asked again, and only one that it shows free is deleted."""

    def __init__(self, error: Ec2Error, eni_id: str) -> None:
        super().__init__(error, eni_id, None)
        self.stranded = eni_id
        self.cause = self.cause or f"it is not known whether {eni_id} is attached"


class StillAttached(Ec2Error):
    """An ENI was to be removed, and EC2 has not begun to: it is as it was."""

    def __init__(self, cause: Ec2Error) -> None:
        super().__init__(
            cause.text, action=cause.action, api_code=cause.api_code, cause=cause.cause, remedy=cause.remedy
        )
