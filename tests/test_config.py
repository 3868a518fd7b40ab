"""config.py: one table of settings; a mistake names the setting, the value and the way out."""

import dataclasses
from pathlib import Path

import pytest

from fastserve.config import Config
from fastserve.errors import ConfigError
from fastserve.presets import PRESETS

LIMITS = Path(__file__).parent.parent / "docs" / "limits.md"


def test_the_defaults_are_a_server_on_localhost():
    """127.0.0.1:8000, and the limits that the documentation promises."""
    config = Config()

    assert (config.host, config.port) == ("127.0.0.1", 8000)
    assert (config.max_head_bytes, config.max_headers) == (32768, 100)
    assert (config.max_body_bytes, config.backlog) == (1048576, 2048)


def test_a_config_cannot_be_changed():
    """It is read by many and written by nobody."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().port = 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 65536), ("port", -1), ("port", "8000"), ("port", True), ("host", ""), ("host", 1),
        ("host", "a\nb"), ("backlog", 0), ("loop", "trio"), ("http", "h2"), ("tasks", "x"),
        ("log_level", "loud"), ("max_head_bytes", 0), ("max_headers", 0), ("max_body_bytes", -1),
        ("graceful_timeout_s", -1), ("graceful_timeout_s", "30"),
        ("lingering_close_s", float("nan")),
        ("blocking_threads", 0), ("fd", -1), ("uds", ""), ("uds_mode", 0o1000),
        ("max_form_fields", -1), ("max_decompression_ratio", 0), ("decompress_requests", 1),
        ("compress_responses", 1),
        ("uds", "\0"), ("uds", "a\0b"), ("uds", "\0a\n"), ("uds_owner", ""), ("uds_owner", 1000),
        ("max_connections", 0), ("when_full", "explode"),
        ("max_pipelined", 0),
        ("bind", (1,)), ("health_paths", "yes"), ("behind", "apache"), ("ssl_sni", ("",)),
        ("forwarded_allow_ips", "localhost"), ("forwarded_allow_ips", "10.0.0.1/8"),
        ("forwarded_allow_ips", None), ("forwarded_headers", ""), ("forwarded_headers", "via"),
        ("forwarded_headers", "x_forwarded_for"), ("proxy_protocol", "v2"),
        ("proxy_allow_ips", "a"), ("handshake_timeout_s", 0), ("max_handshakes", 0),
        ("access_log", "xml"), ("access_log", True), ("access_log_file", ""),
        ("access_log_file", "a\n"), ("access_log_headers", ("a b",)),
        ("access_log_headers", ("a,b",)), ("access_log_headers", ("a:",)),
        ("access_log_headers", "a"), ("access_log_headers", ("x" * 65,)),
        ("access_log_headers", ("a", "A")),
        ("access_log_headers", tuple(f"x{n}" for n in range(17))),
        ("access_log_skip", "/a"), ("access_log_skip", ("a",)), ("access_log_skip", ("/a", "none")),
        ("access_log_sample", 1.1), ("access_log_sample", -0.1), ("access_log_sample", "1"),
        ("access_log_sample", float("nan")), ("access_log_slow_s", -1),
        ("request_id_header", "x request id"), ("request_id_header", None), ("log_format", "xml"),
        ("log_file", ""),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name, value):
    """`port=65536: must be a whole number from 0 to 65535`."""
    with pytest.raises(ConfigError) as caught:
        Config(**{name: value})

    assert str(caught.value).startswith(f"{name}={value!r}: must ")


@pytest.mark.parametrize(
    "given",
    [
        {"uds": "/x", "fd": 3}, {"uds": "/x", "port": 9000}, {"fd": 3, "bind": ("a:1",)},
        {"bind": ("a:1",), "host": "::"},
        {"max_target_bytes": 8192, "max_head_bytes": 4096, "max_field_bytes": 1024},
        {"max_field_bytes": 40000},
        {"uds": "@name", "uds_owner": "root"}, {"uds": "\0name", "uds_mode": 0o600},
    ],
)
def test_settings_that_contradict_each_other_are_refused(given):
    """Nothing is ever silently ignored."""
    with pytest.raises(ConfigError, match=r"give one of them|raise max_head_bytes too|leave them"):
        Config(**given)


BELIEVED = {"forwarded_allow_ips": "10.0.0.0/8"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"proxy_protocol": "required"}, "give both, or neither"),
        ({"proxy_allow_ips": "10.0.0.0/8"}, "give both, or neither"),
        ({"behind": "aws-nlb", "proxy_protocol": "off"}, "give both, or neither"),
        ({"forwarded_headers": "forwarded"}, "nobody is believed: name your proxies"),
        ({"forwarded_headers": "forwarded,x-forwarded-for", **BELIEVED}, "both say who the client"),
        ({"forwarded_headers": "cf-connecting-ip,x-forwarded-for", **BELIEVED}, "both say who"),
        ({"forwarded_headers": "forwarded,cf-connecting-ip", **BELIEVED}, "both say who"),
        ({"forwarded_headers": "forwarded,x-forwarded-proto", **BELIEVED}, "name it alone"),
    ],
)
def test_proxies_that_make_no_sense_are_refused(given, expected):
    """A header from nobody, a field that two write, a preset that is half taken back."""
    with pytest.raises(ConfigError, match=expected):
        Config.load(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"access_log_headers": "referer"}, "there is no access log: give access_log too, one of"),
        ({"access_log_file": "log"}, "access_log_file='log', but there is no access log"),
        ({"access_log_sample": 0.5}, "access_log_sample=0.5, but there is no access log"),
        ({"access_log_skip": ["/a"]}, "there is no access log: give access_log too, one of"),
        ({"access_log_slow_s": 1.0}, "access_log_slow_s=1.0, but there is no access log"),
        ({"access_log": "logging", "access_log_file": "log"}, "leave it out, or give access_log"),
    ],
)
def test_logs_that_make_no_sense_are_refused(given, expected):
    """A detail of what there is none of; a file for what goes to handlers."""
    with pytest.raises(ConfigError, match=expected):
        Config.load(given)


@pytest.mark.parametrize("value", [8000, 1.5, True, b"x", [], [1], {}, {"a": 1}, [["a"]], "", "x"])
def test_a_value_of_any_type_is_a_setting_or_refused_by_name(value):
    """Whatever a TOML file or a script has there; nothing else is raised."""
    refused = {}
    for setting in dataclasses.fields(Config):
        try:
            Config.load({setting.name: value})
        except ConfigError as error:
            refused[setting.name] = str(error)
    assert {name: said for name, said in refused.items() if name not in said} == {}


def test_a_list_may_be_any_that_has_texts():
    """One text, or what can be iterated; but nothing whose texts are something else."""
    for bind in ("a:1", ["a:1"], {"a:1"}, iter(["a:1"])):
        assert Config.load({"bind": bind}).bind == ("a:1",)
    for name, value in (("bind", 8000), ("bind", {"a:1": 1}), ("access_log_skip", False)):
        with pytest.raises(ConfigError, match=f"^{name}={value}: must be a list of texts"):
            Config.load({name: value})
    with pytest.raises(ConfigError, match="^behind=.'nginx'.: must be one of"):
        Config.load({"behind": ["nginx"]})


def test_headers_to_log_may_be_one_or_several():
    """As every list; and no id may be believed at all."""
    config = Config.load({
        "access_log": "json", "access_log_headers": ["Referer", "user-agent"],
        "request_id_header": ""})
    assert config.access_log_headers == ("Referer", "user-agent")
    one = Config.load({"access_log": "json", "access_log_headers": "referer"})
    assert one.access_log_headers == ("referer",)
    assert config.engine_limits()["request_id_header"] == ""


def test_a_preset_is_defaults():
    """--behind sets what is not given, and only settings that there are."""
    assert Config.load({"behind": "aws-nlb"}).keep_alive_timeout_s == 360
    assert Config.load({"behind": "aws-nlb", "keep_alive_timeout_s": 5.0}).keep_alive_timeout_s == 5
    config = Config.load({"behind": "cloudflare"})
    assert "173.245.48.0/20" in config.forwarded_allow_ips
    assert config.forwarded_headers == "cf-connecting-ip,x-forwarded-proto"
    config = Config.load({"behind": "nginx", "forwarded_allow_ips": "192.0.2.1"})
    assert config.forwarded_allow_ips == "192.0.2.1"
    assert Config.load({"behind": "aws-nlb"}).proxy_protocol == "required"
    names = {setting.name for setting in dataclasses.fields(Config)}
    for preset in PRESETS.values():
        assert set(preset) <= names
        assert preset["keep_alive_timeout_s"] >= 75


def test_a_password_is_not_shown():
    """Neither by the Config nor by a complaint about it."""
    assert "hunter2" not in repr(Config(ssl_certfile="c", ssl_keyfile_password="hunter2"))
    with pytest.raises(ConfigError) as caught:
        Config(ssl_keyfile_password="hunter2")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        Config(ssl_certfile="c", ssl_keyfile_password="hunter2\n")
    assert "hunter2" not in str(caught.value)


def test_an_unknown_setting_is_refused_with_the_nearest_known_one():
    """A typo in app.run(...) is not a setting that does nothing."""
    with pytest.raises(ConfigError, match=r"prot=8000: there is no such .* Did you mean port"):
        Config.load({"prot": 8000})
    with pytest.raises(ConfigError, match="There are: host, port"):
        Config.load({"zzz": 1})


def test_none_means_not_given():
    """An option that was left out leaves the default alone; one address need be no list."""
    config = Config.load({"port": None, "bind": "127.0.0.1:1"})

    assert config.port == 8000
    assert config.bind == ("127.0.0.1:1",)
    assert Config.load({"bind": ["a:1", "b:2"]}).bind == ("a:1", "b:2")


def test_every_setting_has_a_group_a_check_and_a_help_text():
    """The table is what the help page, the documentation and the environment are made from."""
    for setting in dataclasses.fields(Config):
        assert setting.metadata["group"]
        assert callable(setting.metadata["check"])
        assert setting.metadata["help"].endswith(".")


def test_limits_and_times_carry_their_unit_in_the_name():
    """bytes, seconds, or a plain count."""
    counts = {
        "max_connections", "when_full", "max_headers", "max_trailers", "max_pipelined",
        "max_in_flight", "max_queued", "body_min_rate_bytes_s", "max_form_fields", "max_form_files",
        "max_decompression_ratio",
    }
    for setting in dataclasses.fields(Config):
        if setting.metadata["group"] in ("Limits", "Time") and setting.name not in counts:
            assert setting.name.endswith(("_bytes", "_s")), setting.name


@pytest.mark.skipif(not LIMITS.exists(), reason="the documentation is in the checkout only")
@pytest.mark.parametrize(
    "setting",
    [s for s in dataclasses.fields(Config) if s.metadata["group"] in ("Limits", "Time")],
    ids=lambda setting: setting.name)
def test_every_limit_and_deadline_is_documented(setting):
    """docs/limits.md has a row for each, with its default."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in LIMITS.read_text().splitlines() if line.startswith("| ")]
    found = [row for row in rows if f"`{setting.name}`" in row[-1]]

    assert len(found) == 1
    if isinstance(setting.default, (int, float)):
        shown = setting.default
        if setting.name.endswith("_bytes") and shown % 1024 == 0:
            shown = f"{shown // 1024} KiB" if shown % 1024**2 else f"{shown // 1024**2} MiB"
        assert str(shown).removesuffix(".0") in found[0][1]
