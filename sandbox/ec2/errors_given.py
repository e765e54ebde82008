"""Codes that the truth never raises by itself, and that only fault rules give: what AWS runs short of.

Capacity, Spot markets, vCPU quotas and the service's own failures are not modelled, yet programs that launch instances
must tell these codes apart. A rule knows no type and no zone, so the texts are the general ones of the error code page
where AWS's answer would name them; a rule may bring a `text` of its own.
"""

from __future__ import annotations

from typing import Final

from sandbox.ec2.refusal import Rule

# --- server errors: the client is to try again, or elsewhere

NO_CAPACITY: Final = Rule(
    "InsufficientInstanceCapacity",
    "There is not enough capacity to fulfill your request. Wait for additional capacity to become available.",
    "docs, server error codes; wording of an answer unconfirmed: AWS names the type and zones that have capacity",
    500,
)
NO_HOST_CAPACITY: Final = Rule(
    "InsufficientHostCapacity",
    "There is not enough capacity to fulfill your Dedicated Host request.",
    "docs, server error codes; wording of an answer unconfirmed",
    500,
)
NO_RESERVED_CAPACITY: Final = Rule(
    "InsufficientReservedInstanceCapacity",
    "Not enough available Reserved Instances to satisfy your minimum request.",
    "docs, server error codes; wording of an answer unconfirmed",
    500,
)
INTERNAL_FAILURE: Final = Rule(
    "InternalFailure",
    "The request processing has failed because of an unknown error, exception, or failure.",
    "docs, server error codes",
    500,
)
SERVICE_UNAVAILABLE: Final = Rule(
    "ServiceUnavailable",
    "The request has failed due to a temporary failure of the server.",
    "docs, server error codes",
    503,
)
UNAVAILABLE: Final = Rule(
    "Unavailable", "The server is overloaded and can't handle the request.", "docs, server error codes", 503
)

# --- client errors: the same request fails again

UNSUPPORTED: Final = Rule(
    "Unsupported",
    "The requested configuration is currently not supported. Please check the documentation for supported"
    " configurations.",
    "docs, Unsupported; quoted in public logs of terraform; also given for a type that a zone does not have",
)
VCPU_LIMIT: Final = Rule(
    "VcpuLimitExceeded",
    "You have requested more vCPU capacity than your current vCPU limit allows for the instance bucket that the"
    " specified instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to request an"
    " adjustment to this limit.",
    "docs, VcpuLimitExceeded; quoted in public logs of terraform, with the limit after `current vCPU limit of`",
)
INSTANCE_LIMIT: Final = Rule(
    "InstanceLimitExceeded",
    "You've reached the limit on the number of instances you can run concurrently.",
    "docs, InstanceLimitExceeded; wording of an answer unconfirmed: AWS names the limit and the type",
)
SPOT_LIMIT: Final = Rule(
    "MaxSpotInstanceCountExceeded",
    "Max spot instance count exceeded",
    "docs, MaxSpotInstanceCountExceeded; quoted in public logs of autoscalers",
)
SPOT_PRICE: Final = Rule(
    "SpotMaxPriceTooLow",
    "Your Spot request price is lower than the minimum required Spot request fulfillment price.",
    "docs, SpotMaxPriceTooLow; quoted in public logs of autoscalers, with both prices",
)
UNFULFILLABLE: Final = Rule(
    "UnfulfillableCapacity",
    "Unable to fulfill capacity due to your request configuration. Please adjust your request and try again.",
    "code as in aws/karpenter-provider-aws; quoted in its public logs",
)
PENDING_VERIFICATION: Final = Rule(
    "PendingVerification",
    "Your account is currently being verified.",
    "docs, PendingVerification; wording of an answer unconfirmed",
)
BLOCKED: Final = Rule(
    "Blocked",
    "This account is currently blocked and not recognized as a valid account.",
    "docs, Blocked; quoted in public logs of terraform",
)
NO_TEMPLATE_ID: Final = Rule(
    "InvalidLaunchTemplateId.NotFound",
    "The specified launch template ID does not exist.",
    "docs, InvalidLaunchTemplateId.NotFound; wording of an answer unconfirmed",
)
NO_TEMPLATE_NAME: Final = Rule(
    "InvalidLaunchTemplateName.NotFoundException",
    "The specified launch template, with template name, does not exist.",
    "docs; code as in aws/karpenter-provider-aws; wording of an answer unconfirmed",
)
