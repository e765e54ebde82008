"""How long each call takes, where a world is to feel like AWS: per class of actions and per action, as data.

Off until switched on. Chance comes from the given generator, so that a run can be repeated.
"""

from __future__ import annotations

import json
import random

from sandbox.ec2.limits import DATA


class Latency:
    """`on` switches it; `scale` stretches all figures."""

    def __init__(self, rng: random.Random) -> None:
        self.on = False
        self.scale = 1.0
        self._rng = rng
        self._data = json.loads((DATA / "latencies.json").read_text())

    def set(self, action: str, least: float, most: float) -> None:
        """Give one action a range of its own, in seconds. Raises ValueError unless 0 <= least <= most."""
        if not 0 <= least <= most:
            raise ValueError(f"latency of {action}: least={least}, most={most}: 0 <= least <= most must hold")
        self._data["actions"][action] = {"least": least, "most": most}

    def of(self, action: str) -> float:
        """How long the next call of an action takes, in seconds; 0 while it is off."""
        if not self.on:
            return 0.0
        kind = "describe" if action.startswith(("Describe", "Get")) else "mutating"
        row = self._data["actions"].get(action) or self._data["classes"][kind]
        return self.scale * self._rng.uniform(row["least"], row["most"])
