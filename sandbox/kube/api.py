"""What the API server does with one object: decode, patch, admit, check, note who manages what, keep.

The verbs without HTTP, for the server and for whoever lives in the same process. Webhooks are asked outside the
store's lock, so a change that came between is a conflict, and is tried again where the caller named no version.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sandbox.kube import apply, defaults, errors, metadata, patch, validation
from sandbox.kube.admission import Admission, Request
from sandbox.kube.definitions import Definitions
from sandbox.kube.errors import KubeError
from sandbox.kube.garbage import POLICIES, Garbage
from sandbox.kube.kinds import Kind, Object
from sandbox.kube.selectors import Matcher
from sandbox.kube.store import Store

MERGE: Final = "application/merge-patch+json"
JSON: Final = "application/json-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
TRIES: Final = 5  # k8s.io/apiserver, handlers/patch.go: maxRetryWhenPatchConflicts


@dataclass
class Options:
    """Of one call. `warnings` is filled by it."""

    manager: str = ""
    dry_run: bool = False
    strict: str = "Warn"
    force: bool = False
    user: str = "system:anonymous"
    warnings: list[str] = field(default_factory=list)


class Api:
    """The verbs on one store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.garbage = Garbage(store)
        self._definitions = Definitions(store)
        self._admission = Admission(store)

    def create(self, kind: Kind, namespace: str, given: Mapping[str, Any], options: Options | None = None) -> Object:
        """Raises KubeError 400, 403, 404, 409, 422, 500, and what a webhook says."""
        options = options or Options()
        thing, warnings = validation.decoded(kind, given, options.strict)
        options.warnings += warnings
        thing = metadata.shape(thing)
        if kind.has_status:
            thing = self._without_status(kind, thing)
        if kind.namespaced:
            metadata.place(thing["metadata"], namespace)
        thing = {**thing, "apiVersion": kind.api_version, "kind": kind.kind}
        if kind.resource != ("", "namespaces"):
            defaults.fill(kind, thing)
        name = thing["metadata"].get("name", "")
        request = Request("CREATE", kind, namespace, name, "", None, thing, options.user, options.dry_run)
        thing = self._admitted(request, options)
        metadata.check(kind, thing["metadata"])
        validation.check(kind, None, thing)
        if not any(entry["operation"] == "Apply" for entry in thing["metadata"].get("managedFields") or ()):
            thing["metadata"].pop("managedFields", None)
            apply.updated(None, thing, kind, options.manager, "", self.store.timestamp())
        return self.store.create(kind, namespace, thing, dry_run=options.dry_run)

    def update(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        given: Mapping[str, Any],
        part: str = "",
        options: Options | None = None,
    ) -> tuple[Object, bool]:
        """The object, and whether it was made. Raises KubeError 400, 404, 409, 422, 500, and what a webhook says."""
        options = options or Options()
        thing, warnings = validation.decoded(kind, given, options.strict)
        options.warnings += warnings
        named = (thing.get("metadata") or {}).get("name")
        if named not in (None, name):
            raise errors.bad_request(f"the name of the object ({named}) does not match the name on the URL ({name})")
        try:
            pinned = bool((thing.get("metadata") or {}).get("resourceVersion"))
            return self._change(kind, namespace, name, lambda _: thing, part, options, pinned=pinned), False
        except KubeError as error:
            if error.status != 404 or not kind.create_on_update or part:
                raise
        return self.create(kind, namespace, {**thing, "metadata": {**thing["metadata"], "name": name}}, options), True

    def patch(
        self, kind: Kind, namespace: str, name: str, how: str, body: Any, part: str = "", options: Options | None = None
    ) -> tuple[Object, bool]:
        """The object, and whether it was made (apply). Raises as `update`, and KubeError 415 for another `how`."""
        options = options or Options()
        accepted = [JSON, MERGE, *([] if kind.custom else [STRATEGIC]), APPLY]
        if how not in accepted:
            raise errors.media_type(how, accepted)
        if how == APPLY:
            return self._apply(kind, namespace, name, body, part, options)
        if how != JSON and not isinstance(body, Mapping):
            raise errors.bad_request("the patch is not a JSON object")

        def change(old: Object) -> Object:
            try:
                if how == JSON:
                    new = patch.json_patch(old, body)
                elif how == MERGE:
                    new = patch.merge(old, body)
                else:
                    new = patch.strategic(old, body, kind.lists)
            except patch.BadPatch as error:
                raise KubeError(
                    422 if how == JSON else 400, "Invalid" if how == JSON else "BadRequest", str(error)
                ) from error
            if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
                raise KubeError(422, "Invalid", "the patch leaves no object with metadata")
            thing, warnings = validation.decoded(kind, new, options.strict)
            options.warnings[:] = warnings
            return thing

        pinned = "resourceVersion" in str(body)
        return self._change(kind, namespace, name, change, part, options, pinned=pinned), False

    def delete(
        self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any], options: Options | None = None
    ) -> tuple[Object, bool]:
        """`body`: DeleteOptions. The object as it was left, and whether it is gone. Raises KubeError 400, 404, 409."""
        options = options or Options()
        policy = body.get("propagationPolicy") or "Background"
        if policy not in POLICIES:
            raise errors.invalid("DeleteOptions", "", [errors.unsupported_value("propagationPolicy", policy, POLICIES)])
        if "orphanDependents" in body:
            raise errors.not_simulated("orphanDependents of DeleteOptions; propagationPolicy takes its place")
        grace = body.get("gracePeriodSeconds")
        if grace is not None and (not isinstance(grace, int) or grace < 0):
            raise errors.bad_request(f"gracePeriodSeconds {grace!r} is no number of seconds")
        wanted = body.get("preconditions") or {}
        old = self.store.get(kind, namespace, name)
        request = Request("DELETE", kind, namespace, name, "", old, None, options.user, options.dry_run)
        _, warnings = self._admission.mutate(request)
        options.warnings += [*warnings, *self._admission.validate(request)]
        return self.garbage.delete(
            kind,
            namespace,
            name,
            uid=wanted.get("uid") or "",
            version=wanted.get("resourceVersion") or "",
            policy=policy,
            grace=grace,
            dry_run=options.dry_run or body.get("dryRun") == ["All"],
        )

    def delete_collection(
        self, kind: Kind, namespace: str, matches: Matcher, body: Mapping[str, Any], options: Options | None = None
    ) -> list[Object]:
        """All that match, as they were left."""
        left = []
        for thing in self.store.list(kind, namespace, matches).items:
            meta = thing["metadata"]
            try:
                left.append(self.delete(kind, meta.get("namespace", ""), meta["name"], body, options)[0])
            except KubeError as error:
                if error.status != 404:
                    raise
        return left

    def bind(self, namespace: str, name: str, binding: Mapping[str, Any], options: Options | None = None) -> None:
        """The `binding` subresource. Raises KubeError 400, 404, 409 if the pod has a node already."""
        kind = self.store.kind("", "v1", "pods")
        target = binding.get("target") or {}
        if not target.get("name") or target.get("kind") not in (None, "", "Node"):
            raise errors.invalid("Binding", name, [errors.required("target.name")])

        def change(old: Object) -> Object:
            if "deletionTimestamp" in old["metadata"]:
                raise errors.conflict(
                    "pods/binding", name, f"pod {name} is being deleted, cannot be assigned to a host"
                )
            bound = (old.get("spec") or {}).get("nodeName")
            if bound:
                raise errors.conflict("pods/binding", name, f'pod {name} is already assigned to node "{bound}"')
            condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": self.store.timestamp()}
            others = [c for c in old.get("status", {}).get("conditions", []) if c["type"] != "PodScheduled"]
            old.setdefault("spec", {})["nodeName"] = target["name"]
            old["status"] = {**old.get("status", {}), "conditions": [*others, condition]}
            return old

        if options is not None and options.dry_run:
            change(self.store.get(kind, namespace, name))
            return
        self.store.mark(kind, (namespace, name), change)

    # --- within ---------------------------------------------------------------------------------------

    def _change(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        change: Callable[[Object], Object],
        part: str,
        options: Options,
        *,
        applied: bool = False,
        pinned: bool = False,
    ) -> Object:
        """`pinned`: the caller named a version."""
        for attempt in range(TRIES):
            old = self.store.get(kind, namespace, name)
            thing = change(copy.deepcopy(old))
            new = metadata.carried_over(kind, old, thing, part)
            defaults.fill(kind, new)
            request = Request("UPDATE", kind, namespace, name, part, old, new, options.user, options.dry_run)
            new = self._admitted(request, options)
            if not part or kind.schema is not None:
                validation.check(kind, old, new)
            if not applied:
                apply.updated(old, new, kind, options.manager, part, self.store.timestamp())
            new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
            try:
                return self.store.update(kind, namespace, name, new, part, dry_run=options.dry_run)
            except KubeError as error:
                if error.reason != "Conflict" or pinned or attempt == TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _apply(
        self, kind: Kind, namespace: str, name: str, body: Any, part: str, options: Options
    ) -> tuple[Object, bool]:
        if not isinstance(body, Mapping):
            raise errors.bad_request("the patch is not a JSON object")
        config, warnings = validation.decoded(kind, body, options.strict)
        options.warnings += warnings
        if not body.get("kind") or not body.get("apiVersion"):
            raise errors.bad_request("the applied object must name its apiVersion and kind")
        meta = metadata.shape(config)["metadata"]
        if meta.get("name") not in (None, name):
            raise errors.bad_request(
                f"the name of the object ({meta['name']}) does not match the name on the URL ({name})"
            )
        config = {**config, "metadata": {**meta, "name": name}}
        if kind.has_status:
            config = self._only_part(config, part)
        when = self.store.timestamp()

        def change(old: Object) -> Object:
            new = apply.apply(old, config, kind, options.manager, part, options.force, when)
            if meta.get("resourceVersion"):
                new["metadata"]["resourceVersion"] = meta["resourceVersion"]
            return new

        try:
            return self._change(kind, namespace, name, change, part, options, applied=True), False
        except KubeError as error:
            if error.reason != "NotFound" or error.details.get("name") != name or part or meta.get("uid"):
                raise
        made = apply.apply(None, config, kind, options.manager, "", options.force, when)
        return self.create(kind, namespace, made, options), True

    def _admitted(self, request: Request, options: Options) -> Object:
        new, warnings = self._admission.mutate(request)
        assert new is not None
        options.warnings += warnings
        options.warnings += self._admission.validate(Request(**{**vars(request), "new": new}))
        return new

    @staticmethod
    def _only_part(config: Mapping[str, Any], part: str) -> Object:
        if part == "status":
            return {key: value for key, value in config.items() if key in ("apiVersion", "kind", "metadata", "status")}
        return {key: value for key, value in config.items() if key != "status"}

    @staticmethod
    def _without_status(kind: Kind, thing: Object) -> Object:
        """Status is not for creators, but for a node's, which kubelets bring along."""
        if kind.resource == ("", "nodes"):
            return thing
        return {key: value for key, value in thing.items() if key != "status"}
