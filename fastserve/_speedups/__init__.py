"""The wire floor: bytes to messages and back, in Cython.

Required, not optional: there is no pure-Python twin of these modules.
"""

try:
    from fastserve._speedups import plan as plan
except ImportError as error:
    import sys as _sys

    if "fastserve._speedups" in str(error.name or ""):
        raise ImportError(
            "fastserve._speedups is not built for CPython "
            f"{_sys.version_info[0]}.{_sys.version_info[1]}. "
            "Run: pip install -e .   (needs a C compiler)"
        ) from error
    raise
