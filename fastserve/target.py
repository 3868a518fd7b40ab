"""From `MODULE:APP` to the application, or to one line that says why not.

MODULE is a dotted module or the path of a Python file; APP is an attribute, dotted if need
be, and `app` where left out. The current directory (or --app-dir) comes first on the path,
as it does for `python -m`. What the user's own module raises is shown with the user's own
frames, never with ours.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from fastserve.app import App, imported_by_a_door
from fastserve.errors import ImportTargetError

_OURS = str(Path(__file__).parent) + os.sep


def load_app(target: str, *, app_dir: str | None = None, factory: bool = False) -> App:
    """Import an application.

    target:   MODULE:APP, MODULE, path/file.py:APP or path/file.py
    factory:  APP is a function that makes the application
    Raises ImportTargetError; the user's traceback, if there is one, is its `traceback`.
    """
    module_name, _, attribute = target.partition(":")
    directory = os.path.abspath(app_dir or os.getcwd())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    with imported_by_a_door():
        module = _import(module_name, directory)
        found = _attribute(module, module_name, attribute or "app")
        if factory:
            found = _guard(found, f"{target}: the factory failed")
    if not isinstance(found, App):
        raise ImportTargetError(_no_app(target, found, factory))
    return found


def user_traceback(error: BaseException) -> str:
    """A traceback from the user's first frame to the last; for a SyntaxError, its place."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and _is_machinery(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    shown = traceback.TracebackException(type(error), error, frames)
    while shown.stack and _is_machinery(shown.stack[-1].filename):
        shown.stack.pop()   # a mistake that we found is not a mistake of ours
    return "".join(shown.format()).rstrip()


def _is_machinery(filename: str) -> bool:
    # contextlib and asyncio stand between our frames and the user's when a lifespan fails
    name = os.path.basename(filename)
    stdlib = os.path.dirname(os.__file__)
    return (
        filename.startswith(("<frozen importlib", _OURS))
        or (os.path.dirname(filename) == stdlib and name == "contextlib.py")
        or filename.startswith(os.path.join(stdlib, "importlib") + os.sep)
        or filename.startswith(os.path.join(stdlib, "asyncio") + os.sep)
    )


def _import(name: str, directory: str) -> ModuleType:
    if name.endswith(".py") or os.sep in name:
        return _import_file(name, directory)
    try:
        module: ModuleType = _guard(
            lambda: importlib.import_module(name), f"importing {name!r} failed")
        return module
    except ImportTargetError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and _is_part_of(cause.name, name):
            hint = f" (for a file: {name}.py)" if os.path.exists(f"{name}.py") else ""
            raise ImportTargetError(
                f"there is no module {cause.name!r} in {directory} or on the path{hint}"
            ) from None
        raise


def _is_part_of(missing: str | None, name: str) -> bool:
    return missing is not None and (name == missing or name.startswith(missing + "."))


def _import_file(name: str, directory: str) -> ModuleType:
    path = Path(directory, name).resolve()
    try:
        path.open("rb").close()
    except PermissionError:
        raise ImportTargetError(
            f"user {os.geteuid()} may not read {str(path)!r}: let it, and pass through every "
            "directory above it") from None
    except OSError:
        raise ImportTargetError(f"there is no file {name!r} in {directory}") from None
    beside = str(path.parent)   # as `python file.py` does: the file may import its neighbours
    if beside not in sys.path:
        sys.path.insert(0, beside)
    free = path.stem not in sys.modules and path.stem not in sys.stdlib_module_names
    module_name = path.stem if free and path.stem.isidentifier() else f"fastserve_app_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportTargetError(f"{name!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    loader = spec.loader
    try:
        _guard(lambda: loader.exec_module(module), f"importing {name!r} failed")
    except ImportTargetError:
        del sys.modules[module_name]
        raise
    return module


def _guard(call: Callable[[], Any], what: str) -> Any:
    """Call the user's code; what it raises becomes an ImportTargetError with its traceback."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        failure = ImportTargetError(f"{what}: {reason.splitlines()[0]}")
        failure.traceback = user_traceback(error)   # type: ignore[attr-defined]
        raise failure from error


def _attribute(module: ModuleType, module_name: str, attribute: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            apps = [name for name, value in vars(module).items() if isinstance(value, App)]
            hint = f"; it has {', '.join(apps)}" if apps else ""
            raise ImportTargetError(
                f"{module_name!r} has no attribute {attribute!r}{hint}") from None
    return found


def _no_app(target: str, found: object, factory: bool) -> str:
    if factory:
        return f"{target}: the factory returned {type(found).__name__}, not a fastserve.App"
    hint = " (to call it, add --factory)" if callable(found) else ""
    return f"{target} is {type(found).__name__}, not a fastserve.App{hint}"
