"""Pods and crashes once more, unchanged, on an EC2 that is slow, throttles, and shows its changes seconds late.

The network itself is not late: EC2's word for an address is all that a node can go by.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.e2e import test_crash, test_pods

pytestmark = pytest.mark.root

test_pods_talk_and_leave_no_trace = test_pods.test_pods_on_primary_and_secondary_enis_talk_and_leave_no_trace
test_empty_pool_waits_and_full_node_fails = test_pods.test_empty_pool_waits_and_full_node_fails_at_once_and_explains
test_kill_of_a_child_fails_no_add = test_crash.test_kill_of_a_child_in_mid_start_fails_no_add


@pytest.fixture
def weather() -> Mapping[str, str]:
    """What EC2 is like on a bad day."""
    return {
        "latency": "on",
        "throttle": "on",
        "api-lag": "eni:new=3,gone=3",
        "imds-lag": "5",
        "attach-delay": "2",
        "detach-delay": "2",
    }
