"""Where settings come from: a file, the environment, flags. Later ones win.

The file is `[tool.fastserve]` of the pyproject.toml in the current directory, or another TOML file
that is named: then `[tool.fastserve]`, or its top level where it has no such table. The environment
is FASTSERVE_NAME for the setting `name`. A name that is no setting is a ConfigError wherever it
stands, since a limit that was misspelled is no limit.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastserve.config import OCTAL, Config
from fastserve.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "FASTSERVE_"
OTHERS = "FASTSERVE_BUILD_"     # switches of setup.py
PYPROJECT = "pyproject.toml"
WORDS = {
    "1": True, "true": True, "yes": True, "on": True,
    "0": False, "false": False, "no": False, "off": False,
}


@dataclass(frozen=True)
class Sourced:
    """A Config, and for every setting that was given: by whom."""

    config: Config
    sources: Mapping[str, str]


def gather(
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    file: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Sourced:
    """The settings of a file, the environment and flags together.

    flags:     by name; None is not given
    file:      a TOML file; None: the pyproject.toml here, if it has our table
    defaults:  for what nobody gave, instead of the Config's own
    Raises ConfigError with the place of what is wrong.
    """
    values: dict[str, Any] = dict(defaults or {})
    sources: dict[str, str] = {}
    places = [
        *_from_file(file), *_from_environment(environment),
        *((name, value, "--" + name.replace("_", "-"))
          for name, value in flags.items() if value is not None),
    ]
    for name, value, source in places:
        values[name] = value
        sources[name] = source
    try:
        return Sourced(Config.load(values), sources)
    except ConfigError as error:
        source = sources.get(str(error).partition("=")[0], "")
        if not source or source.startswith("--"):
            raise
        raise ConfigError(f"{source}: {error}") from None


def _from_file(file: str | None) -> list[tuple[str, Any, str]]:
    path = Path(file or PYPROJECT)
    try:
        text = path.read_bytes().decode()
        table = tomllib.loads(text)
    except FileNotFoundError:
        if file is None:
            return []
        raise ConfigError(f"config={file!r}: there is no such file") from None
    except OSError as error:
        raise ConfigError(f"config={str(path)!r}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config={str(path)!r}: it is no TOML: {error}") from None
    tool = table.get("tool")
    ours = tool.get("fastserve") if isinstance(tool, dict) else None
    if ours is None:
        ours = {} if path.name == PYPROJECT else table
    if not isinstance(ours, dict):
        raise ConfigError(f"config={str(path)!r}: tool.fastserve must be a table")
    for setting in dataclasses.fields(Config):
        value = ours.get(setting.name)
        # 440 is not 0o440: the parser does not tell how a number was written
        if setting.metadata.get("octal") and isinstance(value, int) and not re.search(
                rf"\b{setting.name}[\"']?\s*=\s*0o", text):
            raise ConfigError(f"{path}: {setting.name}={value!r}: {OCTAL}")
    return [(name, value, str(path)) for name, value in ours.items()]


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    fields = {field.name: field for field in dataclasses.fields(Config)}
    found = []
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable.startswith(OTHERS):
            continue
        name = variable.removeprefix(PREFIX).lower()
        value = _read(fields[name], variable, text) if name in fields else text
        found.append((name, value, variable))
    return found


def _read(setting: dataclasses.Field[Any], variable: str, text: str) -> Any:
    """The value that a text stands for, by the type of its setting."""
    if isinstance(setting.default, tuple):
        return tuple(text.replace(",", " ").split())
    kind: Any = setting.metadata.get("type") or (
        str if setting.default is None else type(setting.default))
    if kind is bool:
        if text.lower() not in WORDS:
            raise ConfigError(f"{variable}={text!r}: must be one of {', '.join(WORDS)}")
        return WORDS[text.lower()]
    try:
        return int(text, 8) if setting.metadata.get("octal") else kind(text)
    except ValueError:
        raise ConfigError(f"{variable}={text!r}: must be a number") from None
