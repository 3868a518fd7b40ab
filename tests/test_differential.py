"""A short run of the differential comparison; fuzz/differential.py goes on for hours."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))

import differential


@pytest.mark.parametrize("seed", [1, 2])
def test_what_we_accept_h11_and_llhttp_accept_with_the_same_meaning(seed):
    """Method, target, headers and body of 6,000 requests; and the reference agrees on all."""
    counts, found = differential.run(seconds=120, seed=seed, most=6000)

    assert found == []
    assert counts["accepted"] > 1000
    assert counts["refused"] > 1000


def test_the_comparison_sees_a_difference(monkeypatch):
    """It cannot agree by looking away: a reader that loses a byte of the body is found."""
    monkeypatch.setattr(
        differential, "read_by_llhttp", lambda data: (b"POST", b"/", [(b"host", b"a")], b"hell")
    )
    data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"

    assert "hell" in differential.difference(data)
