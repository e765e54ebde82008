"""EC2's error codes as far as they differ for us: what passes, what was never carried out, what only a human can mend.

Documented in IPAM specification, 5.5 and in EC2's own list ("Error codes for the Amazon EC2 API").
"""

from __future__ import annotations

from typing import Final

from core.backoff import LASTING, PASSING, REFUSED, Pause
from core.errors import Ec2Error

# Ours: the call waited for its turn longer than it could, and EC2 has never seen it.
NOT_SENT: Final = "NotSent"
THROTTLED: Final = frozenset(("RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled"))
UNKNOWN: Final = frozenset(
    ("", "InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable", "RequestTimeout", "GatewayTimeout")
)
NO_ADDRESSES: Final = frozenset(("InsufficientFreeAddressesInSubnet", "InsufficientCidrBlocks"))
DENIED: Final = frozenset(
    ("UnauthorizedOperation", "AccessDenied", "AuthFailure", "InvalidClientTokenId", "OptInRequired", "NoCredentials")
)
ENI_GONE: Final = frozenset(("InvalidNetworkInterfaceID.NotFound",))
ADDRESS_LIMIT: Final = "PrivateIpAddressLimitExceeded"
ATTACHMENT_LIMIT: Final = "AttachmentLimitExceeded"
QUOTAS: Final = frozenset(
    (ATTACHMENT_LIMIT, "NetworkInterfaceLimitExceeded", "SecurityGroupsPerInterfaceLimitExceeded")
)


def outcome_unknown(error: Ec2Error) -> bool:
    """Whether the call may have taken effect although it failed: no answer, nonsense, or a failure inside EC2."""
    return error.api_code in UNKNOWN


def never_happened(error: Ec2Error) -> bool:
    """Whether EC2 has not even looked at the call."""
    return error.api_code in THROTTLED or error.api_code == NOT_SENT


def device_taken(error: Ec2Error) -> bool:
    """Whether an Attach was refused because another ENI has its device index; the code alone says less."""
    return error.api_code == "InvalidParameterValue" and "attached at device index" in error.text


def pause_after(error: Exception) -> Pause:
    """How long to leave alone what has failed this way."""
    if not isinstance(error, Ec2Error):
        return REFUSED
    if outcome_unknown(error) or never_happened(error):
        return PASSING
    return LASTING if error.api_code in DENIED | QUOTAS else REFUSED


def remedy(action: str, code: str) -> str:
    """What to do about a refusal; empty if nothing in particular."""
    if code == "NoCredentials":
        return "give the daemon credentials: a role for its service account, or the instance's"
    if code in DENIED:
        return f"give the daemon's role the permission ec2:{action}"
    if code in QUOTAS:
        return "raise the quota, or free what counts against it"
    return ""
