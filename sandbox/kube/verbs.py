"""One request of the Kubernetes API, from query and body to status and object.

Everything but the socket and the stream of a watch: options, pages, subresources.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

from sandbox.kube import errors, selectors
from sandbox.kube.api import APPLY, Api, Options
from sandbox.kube.errors import KubeError
from sandbox.kube.kinds import Kind, Object
from sandbox.kube.routes import Target, number, truth
from sandbox.kube.selectors import Matcher
from sandbox.kube.store import Key, timestamp

TOKEN_SECONDS: Final = (600, 3600, 1 << 32)  # least, default, most; k8s.io/kubernetes pkg/apis/authentication
ISSUER: Final = "https://kubernetes.default.svc"


def options(query: Mapping[str, str], user: str, agent: str) -> Options:
    """Of a writing call. Without a manager it is the user agent's first word, as in the real server."""
    manager = query.get("fieldManager") or agent.partition("/")[0][:128]
    return Options(
        manager=manager,
        dry_run=query.get("dryRun") == "All",
        strict=query.get("fieldValidation") or "Warn",
        force=truth(query, "force"),
        user=user,
    )


def carry_out(
    api: Api, target: Target, verb: str, query: Mapping[str, str], content_type: str, body: bytes, chosen: Options
) -> tuple[int, Object]:
    """HTTP status and answer, of any verb but watch. Raises KubeError."""
    kind, namespace, name, part = target.kind, target.namespace, target.name, target.part
    if verb == "get":
        return 200, _get(api, target)
    if verb == "list":
        return 200, _list(api, kind, namespace, query)
    if verb == "create":
        if content_type not in ("application/json", "", "application/yaml", "text/plain"):
            raise errors.media_type(content_type, ["application/json"])
        thing = decode(body)
        if part == "binding":
            api.bind(namespace, name, thing, chosen)
            return 201, success()
        if part == "token":
            return 201, _token(api, target, thing)
        return 201, api.create(kind, namespace, thing, chosen)
    if verb == "update":
        if part == "finalize":
            return 200, _finalize(api, target, decode(body))
        if part == "scale":
            raise errors.not_simulated("writing the scale subresource; patch the object itself")
        made, new = api.update(kind, namespace, name, decode(body), part, chosen)
        return 201 if new else 200, made
    if verb == "patch":
        if part == "scale":
            raise errors.not_simulated("writing the scale subresource; patch the object itself")
        if content_type == APPLY and not body.lstrip().startswith(b"{"):
            raise errors.not_simulated("an apply patch in YAML; JSON is YAML too")
        if content_type == APPLY and not query.get("fieldManager"):
            cause = errors.required("fieldManager", "is required for apply patch")
            raise errors.invalid("PatchOptions", "", [cause], "meta.k8s.io")
        if truth(query, "force") and content_type != APPLY:
            raise errors.invalid(
                "PatchOptions",
                "",
                [errors.forbidden_field("force", "may not be specified for non-apply patch")],
                "meta.k8s.io",
            )
        made, new = api.patch(kind, namespace, name, content_type, decode_any(body), part, chosen)
        return 201 if new else 200, made
    deletion = {**(decode(body) if body.strip() else {})}
    for key in ("propagationPolicy", "gracePeriodSeconds"):
        if query.get(key):
            deletion[key] = number(query, key) if key == "gracePeriodSeconds" else query[key]
    if verb == "deletecollection":
        left = api.delete_collection(kind, namespace, matcher(kind, query), deletion, chosen)
        return 200, _as_list(kind, left, {"resourceVersion": str(api.store.version)})
    thing, gone = api.delete(kind, namespace, name, deletion, chosen)
    if not gone:
        return 200, thing
    details = {"name": name, "kind": kind.plural, "uid": thing["metadata"]["uid"]}
    return 200, success(details if not kind.group else {**details, "group": kind.group})


def matcher(kind: Kind, query: Mapping[str, str]) -> Matcher:
    """Both selectors. Raises KubeError 400."""
    by_field = selectors.field_selector(query.get("fieldSelector", ""), kind)
    by_label = selectors.label_selector(query.get("labelSelector", ""))
    return lambda thing: by_field(thing) and by_label(thing)


def version_of(query: Mapping[str, str]) -> int | None:
    """`resourceVersion`; None if it is not there. Raises KubeError 400."""
    text = query.get("resourceVersion", "")
    if text and not (text.isascii() and text.isdigit()):
        raise errors.bad_request(f"invalid resource version {text!r}: must be a number")
    return int(text) if text else None


def success(details: Mapping[str, Any] | None = None) -> Object:
    """A Status of what went well."""
    body: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return {**body, "details": dict(details)} if details else {**body, "code": 201}


def decode_any(body: bytes) -> Any:
    """Raises KubeError 400."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise errors.bad_request(f"couldn't get version/kind; json parse error: {error}") from error


def decode(body: bytes) -> Object:
    """A JSON object. Raises KubeError 400."""
    thing = decode_any(body)
    if not isinstance(thing, dict):
        raise errors.bad_request("the body of the request is not a JSON object")
    return thing


# --- reading -------------------------------------------------------------------------------------------


def _get(api: Api, target: Target) -> Object:
    thing = api.store.get(target.kind, target.namespace, target.name)
    if target.part != "scale":
        return thing
    paths = target.kind.scale or {}
    meta = {
        key: thing["metadata"][key]
        for key in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
        if key in thing["metadata"]
    }
    spec = {"replicas": _at(thing, paths["specReplicasPath"]) or 0}
    status: Object = {"replicas": _at(thing, paths["statusReplicasPath"]) or 0}
    if paths.get("labelSelectorPath"):
        status["selector"] = _at(thing, paths["labelSelectorPath"]) or ""
    return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": spec, "status": status}


def _at(thing: Any, path: str) -> Any:
    for part in path.strip(".").split("."):
        thing = thing.get(part) if isinstance(thing, Mapping) else None
    return thing


def _list(api: Api, kind: Kind, namespace: str, query: Mapping[str, str]) -> Object:
    limit = number(query, "limit") or 0
    version, match, token = version_of(query), query.get("resourceVersionMatch", ""), query.get("continue", "")
    _check_match(version, match, token)
    after: Key | None = None
    at: int | None = None
    if token:
        at, after = _continued(token)
    elif match == "Exact" or (limit and version and not match):
        at = version
    elif version is not None and version > api.store.version:
        raise errors.too_large(version, api.store.version)
    try:
        page = api.store.list(kind, namespace, matcher(kind, query), at=at, after=after, limit=limit)
    except KubeError as error:
        if error.status != 410 or not token:
            raise
        text = (
            "The provided continue parameter is too old to display a consistent list result. You can start a new list "
            "without the continue parameter."
        )
        raise KubeError(410, "Expired", text) from error
    meta: Object = {"resourceVersion": str(page.version)}
    if page.following is not None:
        meta["continue"] = _token_of(page.version, page.following)
        if not query.get("labelSelector") and not query.get("fieldSelector"):
            meta["remainingItemCount"] = page.remaining
    return _as_list(kind, page.items, meta)


def _check_match(version: int | None, match: str, token: str) -> None:
    def refuse(text: str) -> KubeError:
        cause = errors.forbidden_field("resourceVersionMatch", text)
        return errors.invalid("ListOptions", "", [cause], "meta.k8s.io")

    if match and match not in ("Exact", "NotOlderThan"):
        cause = errors.unsupported_value("resourceVersionMatch", match, ["Exact", "NotOlderThan"])
        raise errors.invalid("ListOptions", "", [cause], "meta.k8s.io")
    if match and version is None:
        raise refuse("resourceVersionMatch is forbidden unless resourceVersion is provided")
    if match and token:
        raise refuse("resourceVersionMatch is forbidden when continue is provided")
    if match == "Exact" and version == 0:
        raise refuse('resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
    if token and version:
        raise errors.bad_request("specifying resource version is not allowed when using continue")


def _token_of(version: int, key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": key}).encode()).decode()


def _continued(token: str) -> tuple[int, Key]:
    try:
        held = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        namespace, name = held["start"]
        return int(held["rv"]), (str(namespace), str(name))
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise errors.bad_request("continue key is not valid") from error


def _as_list(kind: Kind, items: list[Object], meta: Object) -> Object:
    return {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta, "items": items}


# --- subresources --------------------------------------------------------------------------------------


def _finalize(api: Api, target: Target, thing: Object) -> Object:
    """A namespace's own finalizers, which nothing else may change."""
    wanted = list((thing.get("spec") or {}).get("finalizers") or [])
    key = ("", target.name)
    api.store.get(target.kind, "", target.name)
    return api.store.mark(target.kind, key, lambda old: old.setdefault("spec", {}).update(finalizers=wanted))


def _token(api: Api, target: Target, request: Object) -> Object:
    """A token of a service account. Raises KubeError 404, 422.

    A JWT with the claims that clients read, signed with a secret that the store's generator gives each time: enough for
    clients that look at its expiry, not for anybody who verifies.
    """
    account = api.store.get(target.kind, target.namespace, target.name)
    spec = request.get("spec") or {}
    seconds = spec.get("expirationSeconds", TOKEN_SECONDS[1])
    if not isinstance(seconds, int) or not TOKEN_SECONDS[0] <= seconds <= TOKEN_SECONDS[2]:
        text = "may not specify a duration less than 10 minutes"
        cause = errors.invalid_value("spec.expirationSeconds", seconds, text)
        raise errors.invalid("TokenRequest", target.name, [cause], "authentication.k8s.io")
    now = int(api.store.clock.now())
    claims = {
        "aud": spec.get("audiences") or [ISSUER],
        "exp": now + seconds,
        "iat": now,
        "nbf": now,
        "iss": ISSUER,
        "sub": f"system:serviceaccount:{target.namespace}:{target.name}",
        "kubernetes.io": {
            "namespace": target.namespace,
            "serviceaccount": {"name": target.name, "uid": account["metadata"]["uid"]},
        },
    }
    head = {"alg": "HS256", "typ": "JWT"}
    text = ".".join(_encoded(json.dumps(part, separators=(",", ":")).encode()) for part in (head, claims))
    secret = api.store.rng.getrandbits(256).to_bytes(32, "big")
    signature = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": target.name, "namespace": target.namespace, "creationTimestamp": timestamp(now)},
        "spec": {**spec, "audiences": claims["aud"], "expirationSeconds": seconds},
        "status": {"token": f"{text}.{_encoded(signature)}", "expirationTimestamp": timestamp(now + seconds)},
    }


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
