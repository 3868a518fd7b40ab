"""README.md and docs/: their code runs, commands parse, figures are the defaults, links lead on.

The blocks of Python on a page are one program, in their order; each page that has any is asked
what ASKED says. Of the commands, `fastserve run` and `pip install` are read as those programs
read them, and not run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shlex
from pathlib import Path

import pytest
from wire_cases import tomllib

from fastserve.cli import check, config, ctl, dev, run
from fastserve.config import LIMITS, TIMES, Config
from fastserve.files import StaticOptions
from fastserve.tail import tail
from fastserve.testing import TestClient
from fastserve.top import top

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"([\d.,]+) ?(KiB|MiB)?")
SIZES = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20}
FILES = {"assets/app.css": b"h1 {}", "reports/2026.pdf": b"%PDF-1.7"}
FORM = {"content-type": "multipart/form-data; boundary=b"}
PHOTO = (
    b'--b\r\nContent-Disposition: form-data; name="title"\r\n\r\nHoliday\r\n'
    b'--b\r\nContent-Disposition: form-data; name="photo"; filename="a.png"\r\n\r\n'
    b"\x89PNG\r\n\x1a\n\r\n--b--\r\n")
DIGEST = hashlib.sha256(b"\x89PNG\r\n\x1a\n").hexdigest().encode()
EVENTS = b"".join(b"id: %d\ndata: tick\n\n" % i for i in range(3))
OTHER_FLAGS = {"--full", "--light"}     # of the modules below tests
# page -> (method, url, headers, content, status, body; None is any)
ASKED = {
    "README.md": [
        ("GET", "/", {}, b"", 200, b"Hello, World!"),
        ("GET", "/users/7?page=2", {}, b"", 200, b'{"id":7,"page":"2"}'),
        ("GET", "/users/1001", {}, b"", 404, b"no such user"),
        ("GET", "/users/x", {}, b"", 404, None),
        ("POST", "/echo", {}, b"some bytes", 201, b"some bytes"),
    ],
    "files.md": [
        ("GET", "/assets/app.css", {}, b"", 200, b"h1 {}"),
        ("GET", "/assets/../reports/2026.pdf", {}, b"", 404, None),
        ("GET", "/report", {}, b"", 200, b"%PDF-1.7"),
    ],
    "forms.md": [
        ("POST", "/photos", FORM, PHOTO, 200, b'{"title":"Holiday","bytes":8,"png":true}'),
        ("POST", "/digest", FORM, PHOTO, 200, b'{"title":7,"photo":"%s"}' % DIGEST),
        ("POST", "/logs", {"content-encoding": "gzip"}, b"no gzip", 400, None),
        ("POST", "/logs", {}, b"plain", 200, b"5"),
    ],
    "compression.md": [("GET", "/report", {"accept-encoding": "identity"}, b"", 200, None)],
    "metrics.md": [("GET", "/app-metrics", {}, b"", 200, b"")],
    "tracing.md": [
        ("GET", "/users/7", {}, b"", 200, b'{"id":7}'),
    ],
    "streaming.md": [
        ("GET", "/numbers", {}, b"", 200, b"0\n1\n2\n"),
        ("GET", "/events", {}, b"", 200, EVENTS),
    ],
}


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in FENCED.findall(page.read_text()) if found == language]


def commands(page: Path) -> list[str]:
    """The lines of the blocks without a language, continued ones as one."""
    text = "".join(blocks(page, "")).replace("\\\n", " ")
    return [command for line in text.splitlines() for command in line.split(" && ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """All of it, as one file, with the files that it names; and it answers what it should."""
    code = "\n".join(blocks(page, "python"))
    assert bool(code) == (page.name in ASKED)
    for name, data in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    if code:
        names: dict[str, object] = {}
        exec(compile(code, str(page), "exec"), names)
        with TestClient(names["app"]) as client:
            for method, url, headers, content, status, body in ASKED[page.name]:
                reply = client.request(method, url, headers=headers, content=content)
                assert reply.status == status, (url, reply.body)
                assert body is None or reply.body == body, url


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_parse(page):
    """Every flag of `fastserve run` is one, with a value that it takes; every extra exists."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    for command in commands(page):
        words = shlex.split(command, comments=True)
        served = {"run": run, "dev": dev, "check": check}
        if words[:1] == ["fastserve"] and words[1] in served:
            context = served[words[1]].make_context("fastserve", words[2:])
            given = {k: v for k, v in context.params.items() if v not in (None, ())}
            settings = {field.name for field in dataclasses.fields(Config)} & set(given)
            Config.load({name: given[name] for name in settings})
        elif words[:2] == ["pip", "install"]:
            wanted = re.search(r"\[(.*)\]", command)
            assert set(wanted[1].split(",") if wanted else ()) <= extras, command


def test_every_limit_is_on_its_page():
    """With the default that it has: the figure in the second column of its row, or its word."""
    rows = {}
    for line in (ROOT / "docs" / "limits.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and (name := re.match(r"`(\w+)`", cells[3])):
            rows[name[1]] = cells[1]
    settings = {
        field.name: field.default
        for field in dataclasses.fields(Config) if field.metadata["group"] in (LIMITS, TIMES)
    }
    assert set(settings) <= set(rows)
    for name, default in settings.items():
        figure = FIGURE.match(rows[name])
        if isinstance(default, int | float):
            assert figure, name
            assert float(figure[1].replace(",", "")) * SIZES[figure[2] or ""] == default, name
        else:
            assert default is None or default in rows[name], name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_flags_of_a_page_exist(page):
    """What stands alone between backticks and begins with dashes, or with `fastserve run`."""
    known = {"--help", *OTHER_FLAGS}
    for parameter in (*run.params, *dev.params, *check.params, *ctl.params, *config.params,
                      *top.params, *tail.params):
        known |= {*parameter.opts, *parameter.secondary_opts}
    text = FENCED.sub("", page.read_text())
    for code in re.findall(r"`(--[^`]*|fastserve run [^`]*)`", text):
        for name in re.findall(r"--[a-z][a-z-]*", code):
            assert name in known, (page.name, code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page):
    """Those to files are relative, and the file is there."""
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith(("https://", "#")):
            assert (page.parent / target).exists(), target


def first_column(page: Path, heading: str) -> list[str]:
    """The names in the first column of the tables whose first heading is this."""
    tables = re.findall(rf"^\| {heading} \|.*\n\|[-|: ]+\n((?:\|.*\n)+)", page.read_text(), re.M)
    return re.findall(r"^\| `(\w+)`", "".join(tables), re.MULTILINE)


def test_the_settings_in_tables_exist():
    """What a table calls a setting is one; what it calls an option is one of App.static."""
    settings = {field.name for field in dataclasses.fields(Config)}
    named = [name for page in PAGES for name in first_column(page, "setting")]
    assert len(named) > 10
    assert set(named) <= settings
    options = {field.name for field in dataclasses.fields(StaticOptions)}
    assert set(first_column(ROOT / "docs" / "files.md", "option")) == {"name", *options}
