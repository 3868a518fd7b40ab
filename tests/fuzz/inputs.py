"""What an input of the fuzzer is: a byte that says how to read the rest, and the rest."""

KINDS = ("head", "chunked", "stream", "fields")


def seed(kind, narrow, cut, data):
    """The input that check.py reads as these."""
    return bytes((KINDS.index(kind) << 1 | narrow | (cut & 31) << 3,)) + data
