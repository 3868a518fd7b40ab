"""What the commands share: an option for each setting, in the group of its setting.

The table in config.py says all there is to say of a setting; a flag that was left out is None,
so that the file, the environment and the defaults have their say.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from fastserve.config import Config
from fastserve.errors import ConfigError
from fastserve.presets import NOT_IN_DEV
from fastserve.sources import Sourced, gather

IMPORTING, RELOADING = "Importing", "Reload"
A_PATH = re.compile(r"/[^:]*(?<!\.py)")     # and not the file of an application
Command = Callable[..., Any]


class GroupedCommand(click.Command):
    """A command whose help lists its options by group, in the order of the settings."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """A flag with a value of its own does not take the word behind it unless that is one."""
        alone = {
            option.opts[0]: option.alone for option in self.params
            if isinstance(option, GroupedOption) and option.alone is not None}
        words = list(args)
        for at, word in enumerate(words):
            if word == "--":
                break
            if word in alone and not A_PATH.fullmatch("".join(words[at + 1:at + 2])):
                words[at] = f"{word}={alone[word]}"
        return super().parse_args(ctx, words)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, GroupedOption):
                groups.setdefault(parameter.group, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


class GroupedOption(click.Option):
    """An option that knows its group, and what it means without a value, a path."""

    def __init__(
        self, *args: Any, group: str, alone: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.group = group
        self.alone = alone


def octal(value: str) -> int:
    """Permissions, as chmod takes them; click turns the ValueError into a usage error."""
    return int(value, 8)


def _option(setting: dataclasses.Field[Any]) -> GroupedOption:
    """The flag of one setting. Left out it is None, so that the Config's default holds."""
    about = setting.metadata
    several = isinstance(setting.default, tuple)
    kind: Any = about.get("type") or (str if several else type(setting.default))
    shown: Any = setting.default
    if isinstance(shown, tuple):
        shown = ", ".join(shown)
    if about.get("octal"):
        kind, shown = octal, f"{setting.default:o}"
    elif about["choices"]:
        kind = click.Choice(about["choices"])
    name = "--" + setting.name.replace("_", "-")
    if kind is bool:
        name, kind, shown = f"{name}/--no-{name[2:]}", None, "on" if shown else "off"
    text = about["help"]
    if shown not in (None, (), ""):
        text = f"{text} [{shown}]"
    return GroupedOption(
        [name, setting.name],
        type=kind,
        multiple=several,
        default=None,
        help=text,
        metavar=about.get("metavar") or ("ADDR" if several else None),
        group=about["group"],
        alone=about.get("alone"),
    )


def with_settings(command: Command, *, without: Iterable[str] = ()) -> Command:
    """An option for each setting, but for some."""
    for setting in reversed(dataclasses.fields(Config)):
        if setting.name in without:
            continue
        option = _option(setting)
        if not hasattr(command, "__click_params__"):
            command.__click_params__ = []  # type: ignore[attr-defined]
        command.__click_params__.append(option)  # type: ignore[attr-defined]
    return command


def with_file(command: Command) -> Command:
    """--config."""
    option = click.option(
        "--config", "config_file", metavar="FILE", cls=GroupedOption, group=IMPORTING,
        help="TOML file of settings. [pyproject.toml]")
    return option(command)


def with_target(command: Command, *, required: bool = True) -> Command:
    """The application, and where it is."""
    for decorate in (
        click.option("--factory", is_flag=True, cls=GroupedOption, group=IMPORTING,
                     help="APP is a function that makes the application."),
        click.option("--app-dir", metavar="DIR", cls=GroupedOption, group=IMPORTING,
                     type=click.Path(exists=True, file_okay=False),
                     help="Look for MODULE here instead of in the current directory."),
        click.argument("target", metavar="MODULE:APP" if required else "[MODULE:APP]",
                       required=required, callback=_check_target),
    ):
        command = decorate(command)
    return command


def with_target_or_none(command: Command) -> Command:
    """The application, if it is named."""
    return with_target(command, required=False)


def _check_target(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> str | None:
    if value is None:
        return None
    module, colon, attribute = value.partition(":")
    if not module or (colon and not attribute) or ":" in attribute:
        raise click.BadParameter(f"{value!r} is not MODULE:APP; examples: main:app, app/main.py")
    return value


def with_watching(command: Command) -> Command:
    """What `dev` watches."""
    for name, metavar, text in (
        ("exclude", "PATTERN", "Files and directories whose changes do not count."),
        ("include", "PATTERN", "Files to watch beside *.py, such as '*.html'."),
        ("dir", "DIR", "Watch what is below it. [the current directory]"),
    ):
        command = click.option(
            f"--reload-{name}", metavar=metavar, multiple=True, cls=GroupedOption,
            group=RELOADING, help=f"{text} Several are possible.")(command)
    return command


def with_dev_settings(command: Command) -> Command:
    """An option for each setting that makes sense in `dev`."""
    return with_settings(command, without=NOT_IN_DEV)


def gathered(
    file: str | None, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Sourced:
    """The settings of the file, the environment and flags; a mistake is one of usage."""
    given = {name: None if value == () else value for name, value in settings.items()}
    try:
        return gather(given, os.environ, file, defaults)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
