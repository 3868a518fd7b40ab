"""Settings from a file, the environment and flags, and what is wrong with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastserve
from fastserve.config import Config
from fastserve.errors import ConfigError
from fastserve.sources import gather

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(fastserve.__file__).parent.parent)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_any_all_are_the_defaults(here):
    """No file, no variables, no flags."""
    assert gather({}, {"PATH": "/bin", "FASTSERVE_BUILD_DEBUG": "1"}).config == Config()


def test_later_ones_win(here):
    """File, environment, flags; each setting knows who gave it."""
    (here / "pyproject.toml").write_text(
        "[tool.fastserve]\nport = 1\nbacklog = 1\nmax_headers = 1\n")
    found = gather(
        {"max_headers": 3, "host": None}, {"FASTSERVE_BACKLOG": "2", "FASTSERVE_MAX_HEADERS": "2"})
    assert (found.config.port, found.config.backlog, found.config.max_headers) == (1, 2, 3)
    assert found.sources == {
        "port": "pyproject.toml", "backlog": "FASTSERVE_BACKLOG", "max_headers": "--max-headers"}


def test_a_file_that_is_named_may_have_them_at_its_top(here):
    """Or in its own [tool.fastserve]; and the one of this directory is not looked at."""
    (here / "pyproject.toml").write_text("[tool.fastserve]\nport = 1\n")
    (here / "a.toml").write_text("bind = ['127.0.0.1:1', 'unix:x']\nheader_timeout_s = 2\n")
    (here / "b.toml").write_text("other = 1\n[tool.fastserve]\nport = 3\n")
    assert gather({}, {}, "a.toml").config == Config(
        bind=("127.0.0.1:1", "unix:x"), header_timeout_s=2)
    assert gather({}, {}, "b.toml").config.port == 3


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("PORT", "80", 80), ("HEADER_TIMEOUT_S", "2.5", 2.5), ("UDS_MODE", "640", 0o640),
        ("HEALTH_PATHS", "off", False), ("DECOMPRESS_REQUESTS", "Yes", True),
        ("BIND", "127.0.0.1:1, unix:x", ("127.0.0.1:1", "unix:x")), ("WORKERS", "auto", "auto"),
        ("WORKERS", "4", 4), ("MAX_CONNECTIONS", "5", 5), ("LOG_LEVEL", "debug", "debug"),
        ("UDS", "/run/x", "/run/x"),
    ],
)
def test_a_text_of_the_environment_is_what_its_setting_is(here, variable, text, value):
    """A number, a word, a list, permissions."""
    config = gather({}, {f"FASTSERVE_{variable}": text}).config
    assert getattr(config, variable.lower()) == value


@pytest.mark.parametrize("text", ["'660'", '"0o660"', "0o660", "0o6_60  # octal", "'0660'"])
@pytest.mark.parametrize("place", [
    "[tool.fastserve]\nuds_mode = {}", '[tool.fastserve]\n"uds_mode"={}',
    "tool.fastserve.uds_mode = {}"])
def test_permissions_in_a_file_are_octal(here, text, place):
    """As a text, or as TOML writes octal numbers."""
    (here / "pyproject.toml").write_text(place.format(text) + "\n")
    assert gather({}, {}).config.uds_mode == 0o660


@pytest.mark.parametrize(
    "text", ["440", "660", "432", "0x1b0", "'440x'", "'888'", "0o1660", "true"])
def test_permissions_in_a_file_that_are_not_octal_are_refused(here, text):
    """440 would be 0o670; the error says how to write it."""
    (here / "pyproject.toml").write_text(f"[tool.fastserve]\nuds_mode = {text}\n")
    with pytest.raises(ConfigError, match=r"^pyproject.toml: uds_mode=.*write 0o660 or \"660\""):
        gather({}, {})


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("port = 'x'", {}, ["pyproject.toml", "port='x'"]),
        ("prot = 1", {}, ["prot=1", "port"]),
        ("port = ", {}, ["no TOML"]),
        ("", {"FASTSERVE_PORT": "x"}, ["FASTSERVE_PORT='x'", "number"]),
        ("", {"FASTSERVE_PORT": "70000"}, ["FASTSERVE_PORT", "65535"]),
        ("", {"FASTSERVE_PROT": "1"}, ["prot", "port"]),
        ("", {"FASTSERVE_HEALTH_PATHS": "maybe"}, ["FASTSERVE_HEALTH_PATHS='maybe'", "yes"]),
        ("", {"FASTSERVE_WORKERS": "many"}, ["FASTSERVE_WORKERS", "auto"]),
    ],
)
def test_a_mistake_names_its_place(here, text, environment, words):
    """The file or the variable, the setting, the value."""
    (here / "pyproject.toml").write_text(f"[tool.fastserve]\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        gather({}, environment)
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_is_not_there_is_a_mistake_only_when_named(here):
    """So is a directory; and a table that is none."""
    for name in ("none.toml", "."):
        with pytest.raises(ConfigError, match="config="):
            gather({}, {}, name)
    (here / "x.toml").write_text("[tool]\nfastserve = 1\n")
    with pytest.raises(ConfigError, match="must be a table"):
        gather({}, {}, "x.toml")


def fastserve_command(directory, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "fastserve", *arguments], cwd=directory, capture_output=True,
        text=True, timeout=60, env={**ENVIRONMENT, **environment})


def test_config_shows_each_setting_and_its_source(tmp_path):
    """Only what was given, or all; a preset's are the preset's; a secret is not shown."""
    (tmp_path / "pyproject.toml").write_text("[tool.fastserve]\nport = 81\n")
    shown = fastserve_command(
        tmp_path, "config", "--backlog", "5", FASTSERVE_BEHIND="nginx", FASTSERVE_UDS_MODE="640",
        FASTSERVE_SSL_CERTFILE="x", FASTSERVE_SSL_KEYFILE_PASSWORD="hidden")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert "port = 81    # pyproject.toml" in lines
    assert "backlog = 5    # --backlog" in lines
    assert "uds_mode = 0o640    # FASTSERVE_UDS_MODE" in lines
    assert "behind = 'nginx'    # FASTSERVE_BEHIND" in lines
    assert any("FASTSERVE_BEHIND (behind)" in line for line in lines)
    assert "hidden" not in shown.stdout
    assert not any(line.startswith("max_headers") for line in lines)
    everything = fastserve_command(tmp_path, "config", "--all").stdout
    assert "max_headers = 100    # default" in everything


def test_run_takes_them(tmp_path):
    """A mistake in the file is wrong usage, before anything is imported."""
    (tmp_path / "pyproject.toml").write_text("[tool.fastserve]\nprot = 81\n")
    ended = fastserve_command(tmp_path, "run", "none:app")
    assert ended.returncode == 2
    assert "Did you mean port?" in ended.stderr
    (tmp_path / "pyproject.toml").write_text("[tool.fastserve]\nfd = 9999\n")
    (tmp_path / "main.py").write_text("from fastserve import App\napp = App()\n")
    ended = fastserve_command(tmp_path, "run", "main.py")
    assert ended.returncode == 1
    assert "fd 9999" in ended.stderr
