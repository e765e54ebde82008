"""One EC2 call in process, through botocore's own serializer and parser: a thousand of them cost less than a second.

Whatever the simulator answers goes through the parser that boto3 uses, so an answer that it could not read fails here.
"""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import urlencode

import botocore.loaders
import botocore.model
import botocore.parsers
import botocore.serialize

from sandbox.ec2.api import Api


@functools.cache
def service() -> botocore.model.ServiceModel:
    return botocore.model.ServiceModel(botocore.loaders.Loader().load_service_model("ec2", "service-2"), "ec2")


@functools.cache
def _serializer() -> Any:
    return botocore.serialize.create_serializer("ec2", include_validation=False)


@functools.cache
def _parser() -> Any:
    return botocore.parsers.create_parser("ec2")


def ask(api: Api, action: str, request: dict[str, Any], peer: str = "-") -> dict[str, Any]:
    """The parsed answer; a refusal has `Error` with `Code` and `Message`."""
    operation = service().operation_model(action)
    form = _serializer().serialize_to_request(request, operation)["body"]
    return ask_form(api, action, form, peer)


def ask_form(api: Api, action: str, form: dict[str, Any], peer: str = "-") -> dict[str, Any]:
    """The same for a form as it goes over the wire."""
    answer = api.handle(urlencode({"Version": "2016-11-15", **form}).encode(), peer)
    response = {"status_code": answer.status, "headers": {}, "body": answer.body}
    shape = service().operation_model(action).output_shape if action in service().operation_names else None
    parsed: dict[str, Any] = _parser().parse(response, shape)
    return parsed


def code(answer: dict[str, Any]) -> str:
    """The error code, or `ok`."""
    return str(answer.get("Error", {}).get("Code", "ok"))
