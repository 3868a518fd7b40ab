"""What a request asks of a representation: conditions, ranges, codings (RFC 9110 12.5.3, 13, 14)."""

import time

import pytest

from fastserve._speedups.conditions import (
    Conditions,
    coding_weight,
    parse_date,
    parse_ranges,
    precondition,
    selected_ranges,
)

THEN = 784111777    # Sun, 06 Nov 1994 08:49:37 GMT
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER = b"Sun, 06 Nov 1994 08:49:36 GMT"
TAG = b'"v1"'


@pytest.mark.parametrize("text", [
    DATE, b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994",
])
def test_the_three_forms_of_a_date_are_read(text):
    """RFC 9110 section 5.6.7: a recipient accepts all three."""
    assert parse_date(text) == THEN


@pytest.mark.parametrize("text", [
    b"", b"0", b"yesterday", b"Sun, 06 Nov 1994 08:49:37 UTC", b"Sun, 31 Feb 1994 08:49:37 GMT",
    b"Sun, 06 Nov 1994 24:49:37 GMT", b"Sun, 06 Nov 1994 08:49:61 GMT", DATE + b"x",
    b"Sun, 06 nov 1994 08:49:37 GMT", b"Sun, 6 Nov 1994 08:49:37 GMT", b"784111777",
    b"Sun, 06 Nov 0000 08:49:37 GMT", DATE + b", " + DATE,
])
def test_what_is_no_date_is_none(text):
    """Strict: nothing is guessed, and a leap second is the only 60."""
    assert parse_date(text) == -1


def test_a_year_of_two_digits_is_at_most_fifty_years_ahead():
    """RFC 9110 section 5.6.7."""
    year = time.gmtime().tm_year
    ahead = parse_date(b"Sunday, 01-Jan-%02d 00:00:00 GMT" % ((year + 49) % 100))
    behind = parse_date(b"Sunday, 01-Jan-%02d 00:00:00 GMT" % ((year + 51) % 100))

    assert time.gmtime(ahead).tm_year == year + 49
    assert behind == -1 or time.gmtime(behind).tm_year == year - 49


PRECONDITIONS = [
    # RFC 9110 section 13.2.2, step by step
    ({"if_match": TAG}, 200),
    ({"if_match": b'"a", "v1"'}, 200),
    ({"if_match": b"*"}, 200),
    ({"if_match": b'"other"'}, 412),
    ({"if_match": b'W/"v1"'}, 412),                         # strong comparison
    ({"if_match": b"v1"}, 412),                             # malformed: not known to match
    ({"if_match": b""}, 412),
    ({"if_unmodified_since": DATE}, 200),
    ({"if_unmodified_since": EARLIER}, 412),
    ({"if_unmodified_since": b"nonsense"}, 200),
    ({"if_match": TAG, "if_unmodified_since": EARLIER}, 200),   # the tag decides alone
    ({"if_match": b'"x"', "if_none_match": TAG}, 412),      # If-Match first
    ({"if_none_match": TAG}, 304),
    ({"if_none_match": b'W/"v1"'}, 304),                    # weak comparison
    ({"if_none_match": b'"a" , ,"b,c",W/"v1"'}, 304),
    ({"if_none_match": b"*"}, 304),
    ({"if_none_match": b'"v2"'}, 200),
    ({"if_none_match": b"v1"}, 200),
    ({"if_none_match": b'"a" "v1"'}, 200),                  # no comma: not a list
    ({"if_modified_since": DATE}, 304),
    ({"if_modified_since": EARLIER}, 200),
    ({"if_modified_since": b"nonsense"}, 200),
    ({"if_none_match": b'"v2"', "if_modified_since": DATE}, 200),   # the tag decides alone
    ({"if_match": TAG, "if_none_match": TAG}, 304),
    ({}, 200),
]


@pytest.mark.parametrize(("fields", "status"), PRECONDITIONS, ids=str)
def test_preconditions_are_evaluated_in_the_order_of_the_rfc(fields, status):
    """If-Match or If-Unmodified-Since, then If-None-Match or If-Modified-Since."""
    assert precondition(Conditions(**fields), TAG, THEN) == status


def test_a_weak_tag_never_matches_strongly():
    """RFC 9110 section 8.8.3.2: both must be strong."""
    conditions = Conditions(if_match=b'W/"v1"')

    assert precondition(conditions, b'W/"v1"', THEN) == 412


RANGES = [
    (b"bytes=0-99", 1000, [(0, 100)]),
    (b"bytes=900-", 1000, [(900, 100)]),
    (b"bytes=-100", 1000, [(900, 100)]),
    (b"bytes=-5000", 1000, [(0, 1000)]),
    (b"bytes=0-5000", 1000, [(0, 1000)]),
    (b"Bytes=0-0", 1000, [(0, 1)]),
    (b"bytes=0-0, ,-1", 1000, [(0, 1), (999, 1)]),
    (b"bytes=5-6,0-1", 1000, [(5, 2), (0, 2)]),         # in the order asked for
    (b"bytes=0-0,2000-", 1000, [(0, 1)]),               # what there is of them
    (b"bytes=1000-", 1000, []),
    (b"bytes=-0", 1000, []),
    (b"bytes=0-", 0, []),
    (b"bytes=-5", 0, None),
    (b"bytes=" + b"9" * 40 + b"-", 1000, []),
    # to be ignored
    (b"bytes=", 1000, None),
    (b"bytes=5-2", 1000, None),
    (b"bytes=a-b", 1000, None),
    (b"bytes=-", 1000, None),
    (b"bytes=--5", 1000, None),
    (b"bytes 0-5", 1000, None),
    (b"seconds=0-5", 1000, None),
    (b"bytes=0-5;1", 1000, None),
    (b"bytes=0-5, bytes=6-7", 1000, None),
    (b"bytes=" + b"9" * 41 + b"-", 1000, None),
    (b"bytes=" + b",".join([b"%d-%d" % (i, i) for i in range(17)]), 1000, None),
    (b"bytes=0-,0-", 1000, None),                       # more than there is
    (b"bytes=0-999,0-0", 1000, None),
]


@pytest.mark.parametrize(("field", "size", "expected"), RANGES, ids=lambda v: str(v)[:40])
def test_ranges_are_read_bounded_or_ignored(field, size, expected):
    """At most sixteen, and together no larger than all of it (RFC 9110 section 14.2)."""
    assert parse_ranges(field, size) == expected


def test_a_hostile_range_costs_nothing():
    """CVE-2025-62727: Starlette merged ranges in quadratic time; here a head's worth is refused.

    The work is counted, not timed: what is not parsed is not there to be merged.
    """
    hostile = b"bytes=" + b",".join(b"%d-%d" % (i, i + 1) for i in range(0, 8000, 2))

    assert parse_ranges(hostile, 10**9) is None
    assert parse_ranges(b"bytes=" + b"," * 30_000, 10**9) is None
    assert parse_ranges(b"bytes=" + b"0-," * 10_000, 10**9) is None


IF_RANGES = [
    (TAG, TAG, THEN + 10, True),
    (b'"v2"', TAG, THEN + 10, False),
    (b'W/"v1"', TAG, THEN + 10, False),
    (b'W/"v1"', b'W/"v1"', THEN + 10, False),
    (DATE, TAG, THEN + 10, True),
    (EARLIER, TAG, THEN + 10, False),
    (DATE, TAG, THEN, False),                           # it may change again in that second
    (b"nonsense", TAG, THEN + 10, False),
]


@pytest.mark.parametrize(("field", "tag", "now", "applies"), IF_RANGES, ids=str)
def test_if_range_wants_a_strong_validator(field, tag, now, applies):
    """RFC 9110 section 13.1.5: otherwise all of it is sent."""
    conditions = Conditions(range=b"bytes=0-1", if_range=field)

    assert selected_ranges(conditions, tag, THEN, 100, now) == ([(0, 2)] if applies else None)


WEIGHTS = [
    (b"gzip", b"gzip", 1), (b"gzip;q=0.5", b"gzip", 0.5), (b"gzip; Q=0", b"gzip", 0),
    (b"GZIP", b"gzip", 1), (b"x-gzip", b"gzip", 1), (b"*", b"br", 1), (b"*;q=0.1", b"br", 0.1),
    (b"br;q=0.2, *;q=0.9", b"br", 0.2), (b"deflate", b"br", -1), (b"", b"br", -1),
    (b"br;q=2", b"br", -1), (b"br;q=0.1234", b"br", -1), (b"br;level=9", b"br", -1),
    (b"identity;q=0", b"identity", 0), (b"gzip,,br", b"br", 1),
]


@pytest.mark.parametrize(("field", "coding", "weight"), WEIGHTS)
def test_codings_have_their_weights(field, coding, weight):
    """RFC 9110 section 12.5.3; what cannot be read is not there."""
    assert coding_weight(field, coding) == weight
