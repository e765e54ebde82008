"""Admission webhooks: who is asked, how, and what a refusal or a silence means.

After admissionregistration.k8s.io/v1 and k8s.io/apiserver pkg/admission/plugin/webhook: mutating webhooks one after
the other by configuration and name, then validating ones; AdmissionReview v1 over HTTP, answers with a JSON patch.
URLs are https with `caBundle`, or http, which the real server refuses. Services as targets are not modelled.
"""

from __future__ import annotations

import base64
import copy
import json
import ssl
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sandbox.kube import errors, patch
from sandbox.kube.errors import KubeError
from sandbox.kube.kinds import Kind, Object
from sandbox.kube.selectors import label_selector_object
from sandbox.kube.store import Store

GROUP: Final = "admissionregistration.k8s.io"
LARGEST: Final = 3 << 20


@dataclass(frozen=True)
class Request:
    """What is about to be done. `new` is None for DELETE, `old` for CREATE."""

    operation: str
    kind: Kind
    namespace: str
    name: str
    part: str
    old: Object | None
    new: Object | None
    user: str
    dry_run: bool


class Admission:
    """Asks the webhooks that one store's configurations name."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def mutate(self, request: Request) -> tuple[Object | None, list[str]]:
        """The object as the webhooks leave it, and their warnings. Raises KubeError as a webhook says, or 500."""
        warnings: list[str] = []
        new = request.new
        for hook in self._matching("Mutating", request):
            current = Request(**{**vars(request), "new": new})
            answer = self._ask(hook, current, warnings)
            if answer is not None and answer.get("patch"):
                new = self._patched(hook, answer, new)
        return new, warnings

    def validate(self, request: Request) -> list[str]:
        """Warnings. Raises KubeError as a webhook says, or 500."""
        warnings: list[str] = []
        for hook in self._matching("Validating", request):
            self._ask(hook, request, warnings)
        return warnings

    def _matching(self, which: str, request: Request) -> Iterator[Mapping[str, Any]]:
        if request.kind.group == GROUP:
            return  # webhooks are never asked about webhooks
        found = self._store.stored((GROUP, f"{which.lower()}webhookconfigurations"))
        for _, configuration in sorted(found.items()):
            for hook in configuration.get("webhooks") or ():
                if any(_rule_matches(rule, request) for rule in hook.get("rules") or ()) and self._selected(
                    hook, request
                ):
                    yield hook

    def _selected(self, hook: Mapping[str, Any], request: Request) -> bool:
        objects = [thing for thing in (request.new, request.old) if thing is not None]
        wanted = label_selector_object(hook.get("objectSelector") or {})
        if not any(wanted((thing.get("metadata") or {}).get("labels") or {}) for thing in objects):
            return False
        name = request.namespace if request.kind.namespaced else ""
        if request.kind.resource == ("", "namespaces"):
            name = request.name
        if not name:
            return True
        space = self._store.stored(("", "namespaces")).get(("", name))
        if space is None:
            space = request.new if request.kind.resource == ("", "namespaces") and request.new else {"metadata": {}}
        return label_selector_object(hook.get("namespaceSelector") or {})(space["metadata"].get("labels") or {})

    def _ask(self, hook: Mapping[str, Any], request: Request, warnings: list[str]) -> Mapping[str, Any] | None:
        """The webhook's `response`; None if it failed and may. Raises KubeError."""
        name = hook["name"]
        if request.dry_run and hook["sideEffects"] not in ("None", "NoneOnDryRun"):
            raise errors.bad_request(f'admission webhook "{name}" does not support dry run')
        uid = str(uuid.UUID(int=self._store.rng.getrandbits(128), version=4))
        try:
            answer = _post(hook, _review(uid, request))
            response = answer["response"]
            if response["uid"] != uid:
                raise ValueError(f"expected response.uid={uid!r}, got {response['uid']!r}")
            allowed = response["allowed"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            text = f'failed calling webhook "{name}": failed to call webhook: {type(error).__name__}: {error}'
            if hook["failurePolicy"] == "Ignore":
                return None
            raise KubeError(500, "InternalError", f"Internal error occurred: {text}") from error
        warnings += [str(entry) for entry in response.get("warnings") or ()]
        if allowed is True:
            return dict(response)
        status = response.get("status") or {}
        reason = status.get("message") or status.get("reason") or ""
        text = f'admission webhook "{name}" denied the request' + (f": {reason}" if reason else " without explanation")
        code = status.get("code")
        code = code if isinstance(code, int) and 400 <= code < 600 else 403
        raise KubeError(code, str(status.get("reason") or "Forbidden"), text)

    def _patched(self, hook: Mapping[str, Any], answer: Mapping[str, Any], new: Object | None) -> Object | None:
        try:
            if answer.get("patchType") != "JSONPatch":
                raise ValueError(f"patchType {answer.get('patchType')!r} is not JSONPatch")
            result = patch.json_patch(new, json.loads(base64.b64decode(answer["patch"], validate=True)))
            if not isinstance(result, dict) or not isinstance(result.get("metadata"), dict):
                raise ValueError("the patch leaves no object")
        except (ValueError, patch.BadPatch) as error:
            raise KubeError(
                500,
                "InternalError",
                f'Internal error occurred: admission webhook "{hook["name"]}" attempted to patch: {error}',
            ) from error
        return result


def _rule_matches(rule: Mapping[str, Any], request: Request) -> bool:
    def has(key: str, value: str) -> bool:
        return value in (rule.get(key) or ()) or "*" in (rule.get(key) or ())

    plural = request.kind.plural + (f"/{request.part}" if request.part else "")
    resources = rule.get("resources") or ()
    wanted = plural in resources or "*/*" in resources or (not request.part and "*" in resources)
    wanted = wanted or (
        bool(request.part) and (f"*/{request.part}" in resources or f"{request.kind.plural}/*" in resources)
    )
    scope = rule.get("scope", "*")
    in_scope = scope == "*" or (scope == "Namespaced") == request.kind.namespaced
    known = has("operations", request.operation) and has("apiGroups", request.kind.group)
    return known and has("apiVersions", request.kind.version) and wanted and in_scope


def _review(uid: str, request: Request) -> Object:
    kind = request.kind
    gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    gvr = {"group": kind.group, "version": kind.version, "resource": kind.plural}
    options = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions", "CONNECT": ""}
    body = {
        "uid": uid,
        "kind": gvk,
        "resource": gvr,
        "requestKind": gvk,
        "requestResource": gvr,
        "operation": request.operation,
        "userInfo": {"username": request.user, "groups": ["system:authenticated"]},
        "object": copy.deepcopy(request.new),
        "oldObject": copy.deepcopy(request.old),
        "dryRun": request.dry_run,
        "options": {"kind": options[request.operation], "apiVersion": "meta.k8s.io/v1"},
    }
    named = (("name", request.name), ("namespace", request.namespace), ("subResource", request.part))
    body.update({key: value for key, value in named if value})
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": body}


def _post(hook: Mapping[str, Any], review: Object) -> Any:
    """Raises OSError (a status other than 200 too), ValueError."""
    where = hook["clientConfig"]
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if where["url"].startswith("https:"):
        bundle = base64.b64decode(where["caBundle"]).decode() if where.get("caBundle") else None
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cadata=bundle)))
    call = urllib.request.Request(where["url"], json.dumps(review).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(*handlers).open(call, timeout=hook["timeoutSeconds"]) as answer:
            return json.loads(answer.read(LARGEST))
    except urllib.error.HTTPError as error:
        error.close()
        raise
