"""What the existing system has left in iptables, and how it goes: from the text of `iptables-save` to a script.

Its SNAT and mark rules stay behind when this daemon takes a node over, with the VPC's networks of that day: a network
that is added later would be source-translated by them, and switching SNAT off would have no effect. Only its own rules
are touched (data plane specification, 14): its chains, the jumps to them, and the mark rules that carry its comments.
"""

from __future__ import annotations

import itertools
import re
import shlex
from typing import Final

# The existing system's mark rules of a node whose iptables is nf_tables.
NFT_FAMILY: Final = "ip"
NFT_TABLE: Final = "aws-cni"

_CHAIN: Final = re.compile(r"AWS-(SNAT|CONNMARK)-CHAIN-[0-9]+")
# What every rule of theirs has in it: a busy node has tens of thousands of others, and splitting one into words costs
# a tenth of a millisecond with the interpreter locked.
_SIGN: Final = "AWS"
# Table and comment of mark rules that stand in a chain of the kernel.
_MARKS: Final = (("mangle", "AWS, primary ENI"), ("nat", "AWS, CONNMARK"))


def removal(saved: str) -> str:
    """The script for `iptables-restore --noflush` that takes these rules away; empty if there are none.

    `saved` is what `iptables-save` prints. Each table is one transaction: all of it goes, or nothing.
    """
    script: list[str] = []
    table, chains, rules = "", list[str](), list[str]()
    for line in saved.splitlines():
        if line.startswith("*"):
            table, chains, rules = line[1:].strip(), [], []
        elif line.startswith(":") and _CHAIN.fullmatch(line[1:].split(" ", 1)[0]):
            chains.append(line[1:].split(" ", 1)[0])
        elif line.startswith("-A ") and _SIGN in line:
            rules.append(line)
        elif line == "COMMIT":
            script += _table(table, chains, rules)
    return "\n".join(script) + "\n" if script else ""


def _table(table: str, chains: list[str], rules: list[str]) -> list[str]:
    gone = [f"-D {rule.removeprefix('-A ')}" for rule in rules if _theirs(table, chains, rule)]
    # A chain goes only when it is empty and nothing jumps to it.
    gone += [f"-F {chain}" for chain in chains] + [f"-X {chain}" for chain in chains]
    return [f"*{table}", *gone, "COMMIT"] if gone else []


def _theirs(table: str, chains: list[str], rule: str) -> bool:
    """Whether a rule of another chain is the existing system's."""
    try:
        words = shlex.split(rule)
    except ValueError:
        return False
    if len(words) < 2 or words[1] in chains:
        return False
    options = dict(itertools.pairwise(words))
    target = options.get("-j") or options.get("-g") or ""
    if target in chains:
        return True
    return target == "CONNMARK" and (table, options.get("--comment", "")) in _MARKS
