"""How many processors a process may use."""

from __future__ import annotations

import os

import pytest

from fastserve import cpus


def test_the_affinity_counts():
    """One processor of many: one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cpus.usable() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, None),
        ({"a/b": "max 100000"}, None),
        ({"a/b": "150000 100000"}, 1.5),
        ({"a": "100000 100000", "a/b": "400000 100000"}, 1.0),
        ({"": "50000 100000"}, 0.5),
        ({"a/b": "nonsense"}, None),
    ],
)
def test_the_least_quota_on_the_way_up_counts(tmp_path, limits, expected):
    """Of the cgroup, its parents, or none."""
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    for path, text in limits.items():
        directory = tmp_path / "fs" / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cpu.max").write_text(text + "\n")
    assert cpus.quota(tmp_path / "fs", membership) == expected
