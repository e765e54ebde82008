"""How a call is refused before its subject matters: its form, its caller, its rate, and ids of what is not there."""

from __future__ import annotations

from typing import Final

from sandbox.ec2.refusal import Rule

INVALID_ACTION: Final = Rule(
    "InvalidAction",
    "The action {action} is not valid for this web service.",
    "docs; quoted by terraform-provider-aws",
)
MISSING_ACTION: Final = Rule("MissingAction", "The request must contain the parameter Action", "docs; wording ours")
NOT_SIMULATED: Final = Rule("NotSimulated", "{what}", "ours: this simulator refuses what it does not model")
UNKNOWN_PARAMETER: Final = Rule(
    "UnknownParameter", "The parameter {name} is not recognized", "docs, UnknownParameter; wording ours"
)
MISSING_PARAMETER: Final = Rule(
    "MissingParameter",
    "The request must contain the parameter {name}",
    "docs, MissingParameter; quoted in public logs of terraform",
)
INVALID_VALUE: Final = Rule(
    "InvalidParameterValue", "Value ({value}) for parameter {name} is invalid. {why}", "docs; wording unconfirmed"
)
BAD_COMBINATION: Final = Rule("InvalidParameterCombination", "{why}", "docs; wording ours")
DRY_RUN: Final = Rule(
    "DryRunOperation",
    "Request would have succeeded, but DryRun flag is set.",
    "docs, DryRunOperation; quoted in public logs of the AWS CLI",
    412,
)
UNAUTHORIZED: Final = Rule(
    "UnauthorizedOperation",
    "You are not authorized to perform this operation.{detail}",
    "docs; the detail as quoted in elastic/detection-rules and in public logs of terraform",
    403,
)
THROTTLED: Final = Rule("RequestLimitExceeded", "Request limit exceeded.", "docs, request throttling", 503)
INTERNAL: Final = Rule("InternalError", "An internal error has occurred", "docs, server error codes", 500)
BAD_TOKEN: Final = Rule("InvalidPaginationToken", "The pagination token is not valid", "docs; wording ours")
CLIENT_TOKEN: Final = Rule(
    "IdempotentParameterMismatch",
    "The request uses the same client token as a previous, but non-identical request. Do not reuse a client token"
    " with different requests, unless the requests are identical.",
    "docs, IdempotentParameterMismatch",
)

MALFORMED: Final = Rule(
    "{kind}.Malformed",
    'Invalid id: "{id}" (expecting "{prefix}-...")',
    "docs, the codes that end in .Malformed; wording quoted in F5Networks/f5-cloud-failover-extension#150",
)
LONG_TOKEN: Final = Rule(
    "InvalidClientToken",
    "The specified client token is not valid: at most 64 ASCII characters.",
    "docs, InvalidClientToken; API reference, ensuring idempotency: up to 64 ASCII characters; wording unconfirmed",
)
FILTER_LIMIT: Final = Rule(
    "FilterLimitExceeded",
    "The maximum number of filter values specified on a single call is {most}",
    "docs, FilterLimitExceeded; quoted by kubernetes/kubernetes cloud provider",
)
NO_SIGNATURE: Final = Rule(
    "MissingAuthenticationToken",
    "Request is missing Authentication Token",
    "common errors of the API reference; wording as sent by AWS endpoints, botocore#2053",
    403,
)
BAD_SIGNATURE_FORM: Final = Rule(
    "IncompleteSignature",
    "{why}",
    "common errors of the API reference; wording unconfirmed",
    400,
)
UNKNOWN_KEY: Final = Rule(
    "AuthFailure",
    "AWS was not able to validate the provided access credentials",
    "docs, AuthFailure; quoted in public logs",
    401,
)
UNKNOWN_SESSION: Final = Rule(
    "InvalidClientTokenId",
    "The security token included in the request is invalid.",
    "common errors of the API reference; which of AuthFailure and this a session token gets: unconfirmed",
    403,
)
WRONG_SIGNATURE: Final = Rule(
    "SignatureDoesNotMatch",
    "The request signature we calculated does not match the signature you provided. Check"
    " your AWS Secret Access Key and signing method. Consult the service documentation for details.",
    "IAM guide, Troubleshoot signed requests; awsteele.com on SigV4 caching. EC2 also tells it as AuthFailure",
    403,
)
EXPIRED: Final = Rule(
    "RequestExpired",
    "Request has expired. Timestamp date is {date}",
    "docs, RequestExpired: more than 15 minutes off; quoted by apache/jclouds",
    400,
)
WRONG_SCOPE: Final = Rule(
    "SignatureDoesNotMatch",
    "Credential should be scoped to a valid Region, not '{scope}'.",
    "IAM guide, Troubleshoot signed requests: credential scope errors",
    403,
)

# --- things that are not there

NO_ENI: Final = Rule(
    "InvalidNetworkInterfaceID.NotFound",
    "The networkInterface ID '{id}' does not exist",
    "docs; aws/aws-sdk-go-v2 users' logs; the id between quotes is cut out by CNI awsutils.go",
)
NO_INSTANCE: Final = Rule(
    "InvalidInstanceID.NotFound", "The instance ID '{id}' does not exist", "docs; quoted in public logs of terraform"
)
NO_SUBNET: Final = Rule(
    "InvalidSubnetID.NotFound", "The subnet ID '{id}' does not exist", "docs; quoted in public logs of terraform"
)
NO_VPC: Final = Rule(
    "InvalidVpcID.NotFound", "The vpc ID '{id}' does not exist", "docs; quoted in public logs of terraform"
)
NO_GROUP: Final = Rule(
    "InvalidGroup.NotFound", "The security group '{id}' does not exist", "docs; quoted in public logs"
)
NO_ATTACHMENT: Final = Rule(
    "InvalidAttachmentID.NotFound", "The attachment ID '{id}' does not exist", "docs; wording ours"
)
NO_RESOURCE: Final = Rule("InvalidID", "The ID '{id}' is not valid", "docs, InvalidID; CreateTags of an unknown kind")
NO_TYPE: Final = Rule(
    "InvalidInstanceType", "The following supplied instance types do not exist: [{type}]", "docs; moto has the same"
)
