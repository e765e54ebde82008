"""The probes of features.py, which other tests rely on, and what they find in a kernel."""

from __future__ import annotations

import platform
from collections.abc import Callable

import pytest

from tests.kernel import features


@pytest.mark.root
def test_what_this_kernel_can_do(record_testsuite_property: Callable[[str, object], None]) -> None:
    """A kernel that must have a feature has it, or the probe fails; what is found goes into the report."""
    record_testsuite_property("release", platform.release())
    for feature in (features.echoes_new_links, features.renames_links_that_are_up, features.activates_when_asked):
        record_testsuite_property(feature.__name__, feature())


@pytest.mark.root
def test_a_feature_that_a_new_kernel_lacks_fails_and_is_no_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an error in a probe would turn into a test of the wrong way."""
    monkeypatch.setattr(features, "release", lambda: (6, 2))
    with pytest.raises(pytest.fail.Exception, match="seems to lack it"):
        features.probed("something", (6, 2), lambda _sock, _indexes: False)
    assert not features.probed("something", (6, 3), lambda _sock, _indexes: False)
    assert features.probed("something", (6, 3), lambda _sock, _indexes: True)
