"""EC2's error codes and texts as one table, each with its source.

A simulator that invents its errors makes green tests lie: programs look at codes, and some cut ids out of texts.
So each row says where code and wording were seen. `docs` is the error code page of the EC2 API reference, `name#n` an
issue or pull request of a public repository that quotes AWS (`make_docs.REPOSITORIES` has the short names).
`unconfirmed` and `wording ours` mean that no answer of AWS with it was found: programs should not rely on it, and a
recorded answer should replace it. The rows stand in one file per kind of subject; this is the name for all of them.
"""

from __future__ import annotations

from sandbox.ec2 import errors_call, errors_eni, errors_given, errors_network
from sandbox.ec2.errors_call import *  # noqa: F403
from sandbox.ec2.errors_eni import *  # noqa: F403
from sandbox.ec2.errors_given import *  # noqa: F403
from sandbox.ec2.errors_network import *  # noqa: F403
from sandbox.ec2.refusal import Ec2Error as Ec2Error
from sandbox.ec2.refusal import Rule as Rule


def table() -> dict[str, Rule]:
    """All rules by their name here, for the page of what is simulated."""
    found: dict[str, Rule] = {}
    for module in (errors_call, errors_eni, errors_given, errors_network):
        found.update({name: value for name, value in vars(module).items() if isinstance(value, Rule)})
    return found
