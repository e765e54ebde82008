"""nftables without a process start for each change: the library that the `nft` command is made of.

Attaching an ENI, and every change of an address or a rule, is a transaction of a few lines; a start of `nft` for each
costs ten times the change itself. The library comes with the command (Debian package libnftables1), takes the same
text and carries out each call wholly or not at all (libnftables(3)).
"""

from __future__ import annotations

import ctypes
import json
import threading
from typing import Any, Final

from sandbox.base.failures import SandboxFailure

SONAME: Final = "libnftables.so.1"
_OUTPUT_JSON: Final = 1 << 4


class Nft:
    """A connection to the nftables of the namespace in which it is made; usable from any thread."""

    def __init__(self) -> None:
        """Raises SandboxFailure missing."""
        try:
            library = ctypes.CDLL(SONAME)
        except OSError as error:
            raise SandboxFailure(
                "missing", f"the library {SONAME} is missing (Debian package libnftables1): {error}"
            ) from error
        library.nft_ctx_new.restype = ctypes.c_void_p
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_output_set_flags"):
            getattr(library, name).argtypes = [ctypes.c_void_p, ctypes.c_uint][: 1 + name.endswith("flags")]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
            getattr(library, name).restype = ctypes.c_char_p
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._library = library
        self._lock = threading.Lock()
        self._context = library.nft_ctx_new(0)
        if not self._context:
            raise SandboxFailure("kernel", "nftables: no connection to the kernel")
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)
        library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON)

    def run(self, text: str) -> str:
        """Carry out commands as in a file of nft(8); what they print, as JSON. Raises SandboxFailure kernel."""
        with self._lock:
            failed = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
            # Both buffers, or what is left in one would stand before the next answer.
            said = self._library.nft_ctx_get_error_buffer(self._context) or b""
            printed = self._library.nft_ctx_get_output_buffer(self._context) or b""
        if failed:
            raise SandboxFailure("kernel", f"nft: {said.decode(errors='replace').strip()}")
        return str(printed.decode())

    def elements(self, table: str, name: str) -> list[Any]:
        """The elements of a set, as in nftables' JSON (libnftables-json(5)). Raises SandboxFailure kernel."""
        found: list[Any] = []
        for entry in json.loads(self.run(f"list set {table} {name}"))["nftables"]:
            found += entry.get("set", {}).get("elem", ())
        return found
