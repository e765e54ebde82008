"""What the frames in `golden/` say. They are what released shims send and agents answer, so they never change:
a new version of the format gets files of its own, and the old ones must still be read.

`python -m tests.cni.golden_frames` writes those that are missing, and none that is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cni import wire

FOLDER: Final = Path(__file__).parent / "golden"
# A path that leads to the caller's folder whatever that is, so that the shim itself can send these bytes.
CONFIG: Final = (
    b'{"agentSocket":"/proc/self/cwd/cni.sock","capabilities":{"io.kubernetes.cri.pod-annotations":true,'
    b'"portMappings":true},"cniVersion":"0.4.0","mtu":"9001","name":"aws-cni","type":"aws-cni","vethPrefix":"eni"}'
)
ENVIRONMENT: Final = {
    "CNI_CONTAINERID": "4b1d5e0c",
    "CNI_NETNS": "pod-netns",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=caf\u00e9",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
}
_CONTAINER, _NETNS, _IFNAME, _ARGS, _PATH = (value.encode() for value in ENVIRONMENT.values())

REQUESTS: Final = {
    "v1-add": wire.Request(wire.Kind.ADD, _CONTAINER, _NETNS, _IFNAME, _ARGS, _PATH, CONFIG, wire.HAS_DESCRIPTORS),
    "v1-check": wire.Request(wire.Kind.CHECK, _CONTAINER, _NETNS, _IFNAME, _ARGS, _PATH, CONFIG, wire.HAS_DESCRIPTORS),
    "v1-del": wire.Request(wire.Kind.DEL, _CONTAINER, _NETNS, _IFNAME, _ARGS, _PATH, CONFIG, wire.HAS_DESCRIPTORS),
    "v1-del-gone": wire.Request(wire.Kind.DEL, _CONTAINER, b"", _IFNAME, _ARGS, _PATH, CONFIG, wire.NETNS_GONE),
    "v1-del-spooled": wire.Request(
        wire.Kind.DEL, _CONTAINER, b"", _IFNAME, _ARGS, _PATH, CONFIG, wire.NETNS_GONE | wire.REPLAYED
    ),
    "v1-status": wire.Request(wire.Kind.STATUS, path=_PATH, config=CONFIG),
    "v1-gc": wire.Request(wire.Kind.GC, path=_PATH, config=CONFIG),
}
REPLIES: Final[dict[str, wire.Reply | wire.Unsupported]] = {
    "v1-reply-add": wire.Reply(0, b'{"cniVersion":"0.4.0","interfaces":[{"name":"enicc21c2d7785"}],"dns":{}}'),
    "v1-reply-error": wire.Reply(1, b'{"cniVersion":"0.4.0","code":11,"msg":"pool empty","details":""}'),
    "v1-reply-empty": wire.Reply(0),
    "v1-unsupported": wire.Unsupported(1, 1),
}


def encode(name: str) -> bytes:
    """The frame as this release makes it."""
    if name in REQUESTS:
        return wire.encode_request(REQUESTS[name])
    reply = REPLIES[name]
    return (
        wire.encode_unsupported()
        if isinstance(reply, wire.Unsupported)
        else wire.encode_reply(reply.status, reply.text)
    )


def read(name: str) -> bytes:
    return (FOLDER / f"{name}.frame").read_bytes()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in [*REQUESTS, *REPLIES]:
        file = FOLDER / f"{name}.frame"
        if not file.exists():
            file.write_bytes(encode(name))
