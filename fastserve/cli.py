"""The command line: `fastserve run MODULE:APP`, `fastserve routes MODULE:APP`, `--version`.

Every option of `run` comes from the table in `config.py`. Exit status: 0 served and
stopped; 1 the application or an address is no good; 2 wrong usage; 3 its start-up failed.
A failure is one line on stderr, under the user's own traceback where the user's code
raised, and never a traceback of ours.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from fastserve.config import Config
from fastserve.errors import ConfigError, FastserveError, ImportTargetError
from fastserve.sources import Sourced, gather
from fastserve.tail import tail
from fastserve.top import top

IMPORTING = "Importing"
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
    shown = setting.default
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


def _with_settings(command: Command) -> Command:
    for setting in reversed(dataclasses.fields(Config)):
        option = _option(setting)
        if not hasattr(command, "__click_params__"):
            command.__click_params__ = []  # type: ignore[attr-defined]
        command.__click_params__.append(option)  # type: ignore[attr-defined]
    return command


def _with_file(command: Command) -> Command:
    option = click.option(
        "--config", "config_file", metavar="FILE", cls=GroupedOption, group=IMPORTING,
        help="TOML file of settings. [pyproject.toml]")
    return option(command)


def _with_target(command: Command) -> Command:
    for decorate in (
        click.option("--factory", is_flag=True, cls=GroupedOption, group=IMPORTING,
                     help="APP is a function that makes the application."),
        click.option("--app-dir", metavar="DIR", cls=GroupedOption, group=IMPORTING,
                     type=click.Path(exists=True, file_okay=False),
                     help="Look for MODULE here instead of in the current directory."),
        click.argument("target", metavar="MODULE:APP", callback=_check_target),
    ):
        command = decorate(command)
    return command


def _check_target(ctx: click.Context, param: click.Parameter, value: str) -> str:
    module, colon, attribute = value.partition(":")
    if not module or (colon and not attribute) or ":" in attribute:
        raise click.BadParameter(f"{value!r} is not MODULE:APP; examples: main:app, app/main.py")
    return value


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(version_line())
        ctx.exit()


HELP = """Serve Python web applications over HTTP/1.1.

\b
fastserve run main:app               the attribute `app` of main.py
fastserve run app/main.py --port 80  a file; `:app` is the default
fastserve routes main:app            what it answers
fastserve ctl --control PATH status  what the workers of a server do
fastserve top --control PATH         the same live; tail: every request
fastserve config                     the settings that run would have here
"""  # \b keeps click from filling the lines


@click.group(
    help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False,
              callback=_show_version, help="Show the versions of what is installed.")
def main() -> None:
    """Serve Python web applications."""


main.add_command(top)
main.add_command(tail)


@main.command(cls=GroupedCommand)
@_with_target
@_with_file
@_with_settings
def run(
    target: str, factory: bool, app_dir: str | None, config_file: str | None, **settings: Any
) -> None:
    """Serve the application MODULE:APP.

    MODULE is a dotted module or the path of a Python file. Every setting may also stand in
    [tool.fastserve] of pyproject.toml, or as FASTSERVE_NAME in the environment.
    """
    config = _gather(config_file, settings).config
    if config.workers is not None and not config.preload:
        from fastserve import supervisor

        try:
            sys.exit(supervisor.supervise(_work(target, app_dir, factory, config), config))
        except FastserveError as error:
            _fail(str(error))
    from fastserve import worker

    app = _load(target, app_dir, factory)
    try:
        status = worker.run(app, config)
    except FastserveError as error:
        _fail(str(error))
    worker.leave_threads_behind(app, status)
    sys.exit(status)


def _gather(file: str | None, settings: dict[str, Any]) -> Sourced:
    given = {name: None if value == () else value for name, value in settings.items()}
    try:
        return gather(given, os.environ, file)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None


@main.command(cls=GroupedCommand)
@_with_file
@click.option("--all", "everything", is_flag=True, cls=GroupedOption, group=IMPORTING,
              help="Defaults too.")
@_with_settings
def config(everything: bool, config_file: str | None, **settings: Any) -> None:
    """Show the settings that `run` would have here, and where each comes from."""
    sourced = _gather(config_file, settings)
    for setting in dataclasses.fields(Config):
        source = sourced.sources.get(setting.name)
        value = getattr(sourced.config, setting.name)
        if source is None and value != setting.default:
            source = "--behind" if sourced.sources.get("behind") is None else \
                f"{sourced.sources['behind']} (behind)"
        if source or everything:
            shown = "..." if setting.metadata.get("secret") and value is not None else repr(value)
            click.echo(f"{setting.name} = {shown}    # {source or 'default'}")


@main.command()
@click.option("--control", metavar="PATH", required=True,
              help="The --control of the server.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as it came.")
@click.option("--timeout-s", type=float, default=300.0, show_default=True,
              help="How long to wait for it.")
@click.option("--now", is_flag=True, help="With stop: drop what is under way.")
@click.option("--canary", type=click.IntRange(0), metavar="N",
              help="With reload: try the new code on so many workers first; 0 is none. [as set]")
@click.option("--canary-s", type=click.FloatRange(0.1, 86400), metavar="S",
              help="For how long. [as set]")
@click.argument("command", type=click.Choice(
    ["status", "reload", "upgrade", "scale", "drain", "stop"]))
@click.argument("workers", type=int, required=False)
def ctl(*, control: str, as_json: bool, timeout_s: float, now: bool, canary: int | None,
        canary_s: float | None, command: str, workers: int | None) -> None:
    """Ask a server with workers: status, reload, upgrade, scale N, drain, stop.

    It answers once the thing is done: 0, or has failed: 1.
    """
    from fastserve.control import ask

    if (command == "scale") != (workers is not None):
        raise click.UsageError("scale takes a number of workers, and nothing else does")
    if now and command != "stop":
        raise click.UsageError("--now is for stop")
    if (canary, canary_s) != (None, None) and command != "reload":
        raise click.UsageError("--canary and --canary-s are for reload")
    order = {"command": command, "workers": workers, "at_once": now, "canary": canary,
             "canary_s": canary_s}
    try:
        answer = ask(control, order, timeout_s)
    except ConfigError as error:
        _fail(str(error))
    if as_json:
        click.echo(json.dumps(answer))
    elif not answer["ok"]:
        _fail(answer["error"])
    elif command == "status":
        from fastserve.status import lines

        click.echo("\n".join(lines(answer)))
    elif answer.get("canary"):
        click.echo(answer["canary"])
    if not answer["ok"]:
        sys.exit(1)


@main.command(cls=GroupedCommand)
@_with_target
def routes(target: str, factory: bool, app_dir: str | None) -> None:
    """List the routes of the application MODULE:APP."""
    from fastserve.binding import describe

    app = _load(target, app_dir, factory)
    rows = [("METHODS", "PATH", "NAME", "HANDLER")]
    for route in app.routes:
        rows.append((",".join(route.methods), route.path, route.name, describe(route.endpoint)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[3]]))


def _work(target: str, app_dir: str | None, factory: bool, config: Config) -> Callable[..., int]:
    """What a worker process does: import the application, so that a reload brings new code."""

    def work(*parts: Any) -> int:
        from fastserve import worker
        from fastserve.target import load_app

        return worker.serve_slot(
            lambda: load_app(target, app_dir=app_dir, factory=factory), config, *parts)

    return work


def _load(target: str, app_dir: str | None, factory: bool) -> Any:
    from fastserve.target import load_app

    try:
        return load_app(target, app_dir=app_dir, factory=factory)
    except ImportTargetError as error:
        shown = getattr(error, "traceback", None)
        if shown:
            click.echo(shown, err=True)
        _fail(str(error))


def _fail(reason: str) -> NoReturn:
    click.echo(f"fastserve: {reason}", err=True)
    sys.exit(1)


def version_line() -> str:
    """The versions a bug report needs, on one line."""
    from importlib import metadata

    import fastserve
    from fastserve._speedups.plan import Plan

    parts = [f"CPython {platform.python_version()}"]
    parts += [f"{name} {metadata.version(name)}" for name in ("uvloop", "httptools", "orjson")]
    # a compiled function is of a type in a module named by its compiler: _cython_3_1_0
    compiler = type(Plan.invoke).__module__.removeprefix("_cython_").replace("_", ".")
    parts.append(f"Cython {compiler}")
    return f"fastserve {fastserve.__version__} ({', '.join(parts)})"
