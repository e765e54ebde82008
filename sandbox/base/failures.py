"""What can go wrong between a user and the world, as one type with a stable code.

The client raises the same failure that the daemon answered with, so a caller decides by `code` and a person
reads `text` and `remedy`. EC2's own errors are another matter (they travel inside EC2 answers).
"""

from __future__ import annotations

from typing import Final

# By code: what to do about it, for whoever has no better idea.
REMEDIES: Final = {
    "bad-request": "correct what is named; `--help` of the command says what it takes",
    "unknown": "check the name; `enid sandbox status`, `pods` and `ps` list what there is",
    "stopped": "start it with StartInstances once it is stopped, or make another if it is gone",
    "no-program": "check its name and PATH; `enid sandbox exec NODE env` shows where programs are looked for",
    "not-executable": "make it executable (chmod +x), or run it by its interpreter",
    "exists": "choose another name, or end the one that is there first",
    "not-running": "start one with `enid sandbox up`, or name its folder with --dir",
    "already-running": "end it with `enid sandbox down`, or name another folder with --dir",
    "stale": "`enid sandbox up` or `down` clears what is left",
    "timeout": "allow more time, or look at `enid sandbox logs`",
    "privilege": "run as root, or allow user namespaces (sysctl user.max_user_namespaces, AppArmor, seccomp)",
    "missing": "install the package that is named",
    "kernel": "look at `enid sandbox logs` and the kernel's log",
    "too-few": "make some with `enid sandbox pod add`",
    "cni": "start your network plugin on the node; it writes its configuration into cni/conf of the node's folder",
    "internal": "look at `enid sandbox logs`; please report it with the log",
}


class SandboxFailure(Exception):
    """`code`: stable word; `text` names the thing, the value and the rule; `remedy` says what to do.

    Codes: bad-request, unknown (no such node, pod, process), stopped (a node), no-program,
    not-executable, exists, not-running, already-running,
    stale, timeout, privilege, missing (a program), kernel, too-few (pods for a probe), cni, internal.
    """

    def __init__(self, code: str, text: str, *, remedy: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.remedy = remedy or REMEDIES.get(code, REMEDIES["internal"])
