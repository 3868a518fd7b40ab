"""The command line: `fastserve run MODULE:APP`, `fastserve routes MODULE:APP`, `--version`.

Every option of `run` comes from the table in `config.py`. Exit status: 0 served and
stopped; 1 the application or an address is no good; 2 wrong usage; 3 its start-up failed.
A failure is one line on stderr, under the user's own traceback where the user's code
raised, and never a traceback of ours.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from fastserve.config import Config
from fastserve.errors import ConfigError, FastserveError, ImportTargetError
from fastserve.options import (
    IMPORTING,
    GroupedCommand,
    GroupedOption,
    gathered,
    with_dev_settings,
    with_file,
    with_settings,
    with_target,
    with_target_or_none,
    with_watching,
)
from fastserve.presets import DEV_DEFAULTS, NOT_IN_DEV
from fastserve.tail import tail
from fastserve.top import top


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(version_line())
        ctx.exit()


HELP = """Serve Python web applications over HTTP/1.1.

\b
fastserve run main:app               the attribute `app` of main.py
fastserve run app/main.py --port 80  a file; `:app` is the default
fastserve run main:app --workers 4   several processes, and nothing lost
"""  # \b keeps click from filling the lines
ORDER = ("run", "dev", "check", "config", "routes", "ctl", "top", "tail")


class Commands(click.Group):
    """The commands in the order in which people come to need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        known = [name for name in ORDER if name in self.commands]
        return known + sorted(set(self.commands) - set(ORDER))


@click.group(
    cls=Commands, help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False,
              callback=_show_version, help="Show the versions of what is installed.")
def main() -> None:
    """Serve Python web applications."""


main.add_command(top)
main.add_command(tail)


@main.command(cls=GroupedCommand, short_help="Serve an application.")
@with_target
@with_file
@with_settings
def run(
    target: str, factory: bool, app_dir: str | None, config_file: str | None, **settings: Any
) -> None:
    """Serve the application MODULE:APP.

    MODULE is a dotted module or the path of a Python file. Every setting may also stand in
    [tool.fastserve] of pyproject.toml, or as FASTSERVE_NAME in the environment.
    """
    config = gathered(config_file, settings).config
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


@main.command(
    cls=GroupedCommand, short_help="Serve it while you write it: a saved file is served at once.")
@with_target
@with_file
@with_watching
@with_dev_settings
def dev(*, target: str, factory: bool, app_dir: str | None, config_file: str | None,
        reload_dir: tuple[str, ...], reload_include: tuple[str, ...],
        reload_exclude: tuple[str, ...], **settings: Any) -> None:
    """Serve MODULE:APP while you write it: a saved file is served at once.

    Takes the settings of `run`. No connection is refused while the new code starts; what does
    not start leaves the old one serving, and the page shows why where none has started yet.
    """
    from fastserve import dev as door
    from fastserve.changes import Watched
    from fastserve.target import load_app

    config = gathered(config_file, {**settings, **NOT_IN_DEV}, DEV_DEFAULTS).config
    directories = reload_dir or door.directories_of(target, app_dir)
    try:
        sys.exit(door.serve(
            lambda: load_app(target, app_dir=app_dir, factory=factory), config,
            Watched.below(directories, reload_include, reload_exclude)))
    except FastserveError as error:
        _fail(str(error))


@main.command(cls=GroupedCommand, short_help="Show the settings, and where each comes from.")
@with_file
@click.option("--all", "everything", is_flag=True, cls=GroupedOption, group=IMPORTING,
              help="Defaults too.")
@with_settings
def config(everything: bool, config_file: str | None, **settings: Any) -> None:
    """Show the settings that `run` would have here, and where each comes from."""
    sourced = gathered(config_file, settings)
    for setting in dataclasses.fields(Config):
        source = sourced.sources.get(setting.name)
        value = getattr(sourced.config, setting.name)
        if source is None and value != setting.default:
            source = "--behind" if sourced.sources.get("behind") is None else \
                f"{sourced.sources['behind']} (behind)"
        if source or everything:
            shown = f"0o{value:o}" if setting.metadata.get("octal") else repr(value)
            if setting.metadata.get("secret") and value is not None:
                shown = "..."
            click.echo(f"{setting.name} = {shown}    # {source or 'default'}")


@main.command(
    cls=GroupedCommand, short_help="Say what is wrong with this machine, and what mends it.")
@with_target_or_none
@with_file
@click.option("--json", "as_json", is_flag=True, cls=GroupedOption, group=IMPORTING,
              help="Print the findings for programs.")
@with_settings
def check(*, target: str | None, factory: bool, app_dir: str | None, config_file: str | None,
          as_json: bool, **settings: Any) -> None:
    """Look for what is wrong with this machine and these settings, and say what mends it.

    With MODULE:APP also with the application, which is imported. Touches no server that runs.
    Exit status 1 where `run` would not work.
    """
    from fastserve import check as door
    from fastserve.host_checks import ERROR, Finding, Machine
    from fastserve.target import load_app

    def load() -> Any:
        return load_app(str(target), app_dir=app_dir, factory=factory)

    try:
        found = door.findings_of(
            gathered(config_file, settings).config, Machine(), load if target else None)
    except click.UsageError as error:
        found = [Finding(ERROR, "settings", error.message, "fastserve run --help")]
    click.echo(json.dumps(door.as_json(found)) if as_json else "\n".join(door.lines_of(found)))
    sys.exit(not door.succeeded(found))


@main.command(short_help="Ask a server with workers: status, reload, scale, drain, stop.")
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
    ["status", "reload", "upgrade", "scale", "drain", "resume", "stop"]))
@click.argument("workers", type=int, required=False)
def ctl(*, control: str, as_json: bool, timeout_s: float, now: bool, canary: int | None,
        canary_s: float | None, command: str, workers: int | None) -> None:
    """Ask a server with workers: status, reload, upgrade, scale N, drain, resume, stop.

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


@main.command(cls=GroupedCommand, short_help="List what an application answers.")
@with_target
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
