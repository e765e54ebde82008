"""The error tree: stable codes, legal CNI numbers, and details that answer what, why and when again."""

from __future__ import annotations

import pytest

from core import errors


def tree(root: type[errors.EnidError]) -> list[type[errors.EnidError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in tree(child))]


ALL = [cls for cls in tree(errors.EnidError) if cls.__module__ == "core.errors"]


def test_codes_are_unique_and_numbers_do_not_collide() -> None:
    codes = [cls.code for cls in ALL]
    assert len(set(codes)) == len(codes)
    ours = [cls.cni_code for cls in ALL if 100 <= cls.cni_code < 999]
    assert len(set(ours)) == len(ours)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.code)
def test_cni_numbers_follow_the_specification(cls: type[errors.EnidError]) -> None:
    # 1 to 99 belong to the specification; of these it defines 1-7, 11, 50 and 51.
    assert cls.cni_code in {*range(1, 8), 11, 50, 51} or cls.cni_code >= 100


def test_details_name_code_cause_remedy_and_retry() -> None:
    error = errors.PoolEmpty("no address", cause="EC2 throttles", retry_after=2.5)
    assert error.details() == (
        "code=pool-empty; cause: EC2 throttles; "
        "remedy: wait; `enid status` shows the refill under way and its last error; retry after 2.5 s"
    )
    assert "retry" not in errors.NodeFull("29 of 29").details()
