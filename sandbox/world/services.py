"""AWS's other services, of which there are none here: each call is answered at once, with the service's name.

Without this a client would look up a public name and wait for its time-out. SDKs take AWS_ENDPOINT_URL for every
service that has no address of its own (SDKs and Tools reference guide, "Service-specific endpoints"), and a signed
request names its service in the credential's scope (IAM user guide, "Signature Version 4"). The error comes in the form
of the service's protocol, so that the client shows it and does not retry.
"""

from __future__ import annotations

import json
import re
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from sandbox.base.http import Request, Response

CODE: Final = "NotSimulated"
_SCOPE: Final = re.compile(r"Credential=[^/]+/[0-9]{8}/[^/]+/([^/]+)/aws4_request")
# REST with XML (API references of the three); all other services whose calls are no forms speak JSON.
_XML: Final = ("s3", "route53", "cloudfront")


def answer(request: Request) -> Response:
    """The refusal of one request to any service; a handler for `http.serve`."""
    url = urlsplit(request.target)
    # A presigned request has its scope in the query.
    found = _SCOPE.search(request.headers.get("authorization", "") + unquote(url.query))
    service = found[1] if found else ""
    target = request.headers.get("x-amz-target", "")
    form = request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    asked = parse_qs(request.body.decode(errors="replace") if form else url.query).get("Action", [""])[0]
    what = target.rpartition(".")[2] or asked or f"{request.method} {url.path}"
    text = f"service {service or 'of an unsigned call'} ({what}); of AWS there are EC2 and the instance metadata here"
    if asked or service in _XML:
        error = f"<Error><Code>{CODE}</Code><Message>{escape(text)}</Message></Error>"
        body = error if service == "s3" else f"<ErrorResponse>{error}</ErrorResponse>"
        return Response(400, body.encode(), "text/xml")
    body = json.dumps({"__type": CODE, "message": text})
    return Response(400, body.encode(), "application/json", headers={"x-amzn-errortype": CODE})
