"""What clients send, read strictly: what cannot be is their mistake, a 400 that says so."""

from typing import Any

from fastserve import HTTPError

INTEGER_MOST = 2**31 - 1    # of PostgreSQL's integer


def whole(text: str | bytes | None, most: int = 2**53) -> int:
    """A whole number, -most to most. Raises HTTPError(400) for what is missing or is none."""
    try:
        number = int(text or "")
    except ValueError:
        raise HTTPError(400, "a whole number is wanted") from None
    if abs(number) > most:
        raise HTTPError(400, f"a number up to {most} is wanted")
    return number


def within(text: str | None, default: int, least: int, most: int) -> int:
    """A number that is moved to the nearest of `least` to `most`; `default` where it is missing.

    Raises HTTPError(400) for what is no number.
    """
    return default if text is None else max(least, min(whole(text), most))


def fields(body: Any, **kinds: type) -> list[Any]:
    """The values of these names in a JSON object, which must be of these types.

    Raises HTTPError(400), naming the first that is not.
    """
    if not isinstance(body, dict):
        raise HTTPError(400, "a JSON object is wanted")
    values = [body.get(name) for name in kinds]
    for (name, kind), value in zip(kinds.items(), values, strict=True):
        if type(value) is not kind or (kind is int and abs(value) > INTEGER_MOST) \
                or (kind is str and "\0" in value):
            raise HTTPError(400, f"{name} must be of type {kind.__name__}, and fit the table")
    return values
