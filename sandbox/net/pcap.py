"""Every frame of one port, both ways, as a pcap file: `python -m sandbox.net.pcap PORT`, in the router's namespace.

A process of its own, so that a capture costs the world nothing and ends with whoever looks. The file has the classic
format, which every reader knows (draft-ietf-opsawg-pcap, sections 4 and 5), with nanoseconds, and is written frame by
frame, so that it can be read while it grows, or from a pipe.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import struct
import sys
import time
from typing import Final

MAGIC_NANOSECONDS: Final = 0xA1B23C4D
LINKTYPE_ETHERNET: Final = 1
SNAPLEN: Final = 262_144
ETH_P_ALL: Final = 3
_SO_TIMESTAMPNS: Final = 35
HEADER: Final = struct.pack("IHHiIII", MAGIC_NANOSECONDS, 2, 4, 0, 0, SNAPLEN, LINKTYPE_ETHERNET)
RECORD: Final = struct.Struct("IIII")  # seconds, nanoseconds, bytes that follow, bytes on the wire


def listen(port: str) -> socket.socket:
    """A socket that gets each frame of an interface of this namespace. Raises OSError."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    link.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    link.bind((port, ETH_P_ALL))
    return link


def record(frame: bytes, nanoseconds: int) -> bytes:
    """One frame as it stands in the file. `nanoseconds` since 1970."""
    kept = frame[:SNAPLEN]
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return RECORD.pack(seconds & 0xFFFFFFFF, rest, len(kept), len(frame)) + kept


def capture(link: socket.socket, file: int, count: int | None, seconds: float | None) -> int:
    """Write header and frames to the descriptor until `count` frames, `seconds`, or the reader is gone; how many."""
    _write(file, HEADER)
    end = None if seconds is None else time.monotonic() + seconds
    watch = select.poll()
    watch.register(link, select.POLLIN)
    watch.register(file, 0)
    done = 0
    while count is None or done < count:
        left = None if end is None else (end - time.monotonic()) * 1000
        ready = dict(watch.poll(left)) if left is None or left > 0 else {}
        if not ready or file in ready:
            break
        frame, extra, _, _ = link.recvmsg(SNAPLEN, 64)
        stamp = time.time_ns()
        for level, kind, data in extra:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                whole, part = struct.unpack("ll", data[:16])
                stamp = whole * 1_000_000_000 + part
        _write(file, record(frame, stamp))
        done += 1
    return done


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def main() -> int:
    """Frames go to standard output; a line on standard error says when it begins, and one how many there were."""
    ask = argparse.ArgumentParser(prog="pcap")
    ask.add_argument("port")
    ask.add_argument("--count", type=int)
    ask.add_argument("--seconds", type=float)
    given = ask.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        link = listen(given.port)
        print(f"capturing on {given.port}", file=sys.stderr, flush=True)
        done = capture(link, 1, given.count, given.seconds)
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(f"capture of {given.port}: {error}", file=sys.stderr)
        return 1
    print(f"{done} frames", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
