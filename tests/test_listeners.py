"""listeners.py: sockets from settings, and one clear line where there can be none."""

import contextlib
import os
import socket
import stat
import sys

import pytest

from fastserve.config import Config
from fastserve.errors import ConfigError
from fastserve.listeners import Inherited, Tcp, Unix, open_listeners, parse_address

LOCALHOST = "127.0.0.1"


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def listen():
    """Open listeners from settings; close them when the test is over."""
    with contextlib.ExitStack() as stack:

        def open_them(**settings):
            listeners = open_listeners(Config(**settings))
            for listener in listeners:
                stack.callback(listener.close)
            return listeners

        yield open_them


def port_of(listener):
    return listener.socket.getsockname()[1]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", Tcp("127.0.0.1", 8000)), ("localhost:0", Tcp("localhost", 0)),
        ("[::]:8000", Tcp("::", 8000)), ("[::1]:1", Tcp("::1", 1)),
        ("unix:/run/app.sock", Unix("/run/app.sock")), ("unix:app.sock", Unix("app.sock")),
        ("fd://3", Inherited(3)),
    ],
)
def test_addresses_are_read(text, address):
    """Every form that the help page names."""
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "8000", ":8000", "localhost", "a:b", "a:70000", "::1:80", "[::1]", "unix:", "fd://x",
             "fd://", "http://a:1", "a:1 ", "a:-1"])
def test_an_address_that_cannot_be_read_is_refused(text):
    """The error shows the value and the forms there are."""
    with pytest.raises(ConfigError, match="must be HOST:PORT") as caught:
        parse_address(text)

    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("setting", ["bind", "plain_bind"])
def test_the_setting_that_holds_a_bad_address_is_named(listen, setting):
    """The user has to look there."""
    settings = {"ssl_certfile": "cert.pem", "port": 0} if setting == "plain_bind" else {}
    with pytest.raises(ConfigError, match=f"^{setting}='foo': must be HOST:PORT"):
        listen(**settings, **{setting: ("foo",)})


def test_a_tcp_listener_is_ready_for_the_engine(listen):
    """Non-blocking, close-on-exec, listening, with the options that accepted sockets inherit."""
    (listener,) = listen(port=0)
    sock = listener.socket

    assert listener.is_tcp
    assert not sock.getblocking()
    assert not sock.get_inheritable()
    for level, option in [
        (socket.SOL_SOCKET, socket.SO_ACCEPTCONN), (socket.SOL_SOCKET, socket.SO_REUSEADDR),
        (socket.SOL_SOCKET, socket.SO_REUSEPORT), (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    ]:
        assert sock.getsockopt(level, option)


def test_port_0_is_a_free_port_and_the_label_shows_it(listen):
    """What is printed can be connected to."""
    (listener,) = listen(port=0)

    assert listener.label == f"http://127.0.0.1:{port_of(listener)}"
    socket.create_connection((LOCALHOST, port_of(listener)), 5).close()


def test_a_port_in_use_by_a_stranger_is_refused(listen):
    """Even though we set SO_REUSEPORT ourselves."""
    with socket.create_server((LOCALHOST, 0)) as stranger:
        port = stranger.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            listen(port=port)

    assert str(caught.value) == f"port {port} on 127.0.0.1 is in use"


def test_a_port_in_use_by_another_instance_of_ours_is_refused(listen):
    """Two servers started by mistake do not share a port unnoticed."""
    (first,) = listen(port=0)

    with pytest.raises(ConfigError, match="is in use"):
        listen(port=port_of(first))


def test_a_port_can_be_taken_again_at_once(listen):
    """A connection in TIME_WAIT does not hold a restart up."""
    (first,) = listen(port=0)
    port = port_of(first)
    client = socket.create_connection((LOCALHOST, port), 5)
    first.socket.setblocking(True)
    accepted, _ = first.socket.accept()
    accepted.close()    # the server closes first: TIME_WAIT is on its side
    client.close()
    first.close()

    (second,) = listen(port=port)

    assert port_of(second) == port


def test_several_binds_open_several_sockets(listen, tmp_path):
    """--bind may be given as often as one likes, in every form."""
    listeners = listen(bind=(f"{LOCALHOST}:0", "127.0.0.2:0", f"unix:{tmp_path}/s"))

    assert [listener.is_tcp for listener in listeners] == [True, True, False]


def test_a_failure_closes_what_was_opened_before(listen, tmp_path):
    """All or nothing: no socket and no socket file is left."""
    path = tmp_path / "s"
    with socket.create_server((LOCALHOST, 0)) as stranger, pytest.raises(ConfigError):
        listen(bind=(f"unix:{path}", f"{LOCALHOST}:{stranger.getsockname()[1]}"))

    assert not path.exists()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".b", "300.1.1.1"])
def test_an_unknown_host_is_refused(listen, host):
    """One line that names it."""
    with pytest.raises(ConfigError, match="cannot listen on host"):
        listen(host=host, port=0)


def test_an_address_of_another_machine_is_refused(listen):
    """RFC 5737 addresses are nobody's."""
    with pytest.raises(ConfigError, match="this machine has no such address"):
        listen(host="192.0.2.1", port=0)


@needs_ipv6
def test_the_ipv6_wildcard_alone_takes_ipv4_as_well(listen):
    """`--host ::` is both families."""
    (listener,) = listen(host="::", port=0)

    socket.create_connection((LOCALHOST, port_of(listener)), 5).close()
    socket.create_connection(("::1", port_of(listener)), 5).close()
    assert listener.label == f"http://[::]:{port_of(listener)}"


@needs_ipv6
def test_both_wildcards_side_by_side_are_one_socket_per_family(listen):
    """Then IPV6_V6ONLY is on, or they would be in each other's way."""
    (free,) = listen(port=0)
    port = port_of(free)
    free.close()

    v4, v6 = listen(bind=(f"0.0.0.0:{port}", f"[::]:{port}"))

    assert v4.socket.family == socket.AF_INET
    assert v6.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


# --- unix sockets ------------------------------------------------------------------------


def test_a_unix_socket_has_the_mode_asked_for_and_goes_away_at_the_end(listen, tmp_path):
    """The umask has no say."""
    path = tmp_path / "s"
    (listener,) = listen(uds=str(path), uds_mode=0o640)

    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert listener.label == f"unix:{path}"
    assert not listener.is_tcp
    listener.close()
    assert not path.exists()


def test_a_stale_socket_file_is_replaced(listen, tmp_path):
    """Left by a process that was killed: nobody answers behind it."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()

    listen(uds=str(path))

    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_live_socket_file_is_left_alone(listen, tmp_path):
    """Somebody listens behind it: in use, even when its queue is full."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as alive, socket.socket(socket.AF_UNIX) as waiting:
        alive.bind(str(path))
        alive.listen(0)
        waiting.setblocking(False)
        waiting.connect_ex(str(path))
        with pytest.raises(ConfigError) as caught:
            listen(uds=str(path))

    assert str(caught.value) == f"unix:{path} is in use"
    assert path.exists()


def test_a_file_that_is_no_socket_is_left_alone(listen, tmp_path):
    """--uds config.toml deletes nothing."""
    path = tmp_path / "precious"
    path.write_text("data")

    with pytest.raises(ConfigError, match="a file that is no socket"):
        listen(uds=str(path))

    assert path.read_text() == "data"


def test_a_socket_file_that_is_not_ours_any_more_is_left_alone(listen, tmp_path):
    """A successor has replaced it: removing it would cut the successor off."""
    path = tmp_path / "s"
    (first,) = listen(uds=str(path))
    path.unlink()
    listen(uds=str(path))

    first.close()

    assert path.exists()


def test_a_path_that_cannot_be_is_refused(listen, tmp_path):
    """Too long for the kernel, or in no directory."""
    with pytest.raises(ConfigError, match="cannot listen on unix:"):
        listen(uds=str(tmp_path / ("x" * 120)))
    with pytest.raises(ConfigError, match="No such file or directory"):
        listen(uds=str(tmp_path / "no" / "s"))


def test_a_unix_socket_is_given_to_the_owner_asked_for(listen, tmp_path):
    """By name or number, user and group; before anybody can connect."""
    path = tmp_path / "s"
    if os.geteuid() == 0:
        cases = [("nobody", 65534, 0), ("12:34", 12, 34), (":34", 0, 34)]
    else:
        cases = [(f":{os.getegid()}", os.geteuid(), os.getegid())]
    for owner, uid, gid in cases:
        (listener,) = listen(uds=str(path), uds_owner=owner, uds_mode=0o660)
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (uid, gid)
        assert stat.S_IMODE(found.st_mode) == 0o660
        listener.close()


@pytest.mark.parametrize(
    ("owner", "says"),
    [("no-such-user", "there is no user 'no-such-user'"),
     (":no-such", "there is no group 'no-such'"),
     ("root:", "must be USER, USER:GROUP or :GROUP"), (":", "must be USER"),
     ("4294967295", "there is no user '4294967295'")])
def test_an_owner_that_cannot_be_is_refused_and_leaves_no_file(listen, tmp_path, owner, says):
    """Named as it was given."""
    path = tmp_path / "s"
    with pytest.raises(ConfigError, match=says) as caught:
        listen(uds=str(path), uds_owner=owner)

    assert str(caught.value).startswith(f"uds_owner={owner!r}: ")
    assert not path.exists()


@contextlib.contextmanager
def another_user():
    """Be somebody without privileges for a while."""
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@needs_root
def test_who_may_not_give_a_socket_away_is_told_so(listen, tmp_path):
    """An ordinary user cannot make it another's; no file is left."""
    path = tmp_path / "s"
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o777)
    with another_user(), pytest.raises(ConfigError, match="may not give .* away"):
        listen(uds=str(path), uds_owner="root")

    assert not path.exists()


@needs_root
def test_a_stale_socket_of_another_user_is_left_alone(listen, tmp_path):
    """It may be somebody's who starts again in a moment; unless it is the owner asked for."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    os.chown(path, 65534, 65534)

    with pytest.raises(ConfigError, match="there is a socket of user 65534, not of ours"):
        listen(uds=str(path))
    assert path.exists()
    listen(uds=str(path), uds_owner="65534")


def test_a_socket_of_another_kind_is_left_alone(listen, tmp_path):
    """A datagram socket, e.g. /dev/log."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(path))
        with pytest.raises(ConfigError, match="Protocol wrong type for socket"):
            listen(uds=str(path))

    assert path.exists()


def test_a_symlink_is_left_alone(listen, tmp_path):
    """Even one that leads to a stale socket."""
    path, link = tmp_path / "s", tmp_path / "link"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    link.symlink_to(path)

    with pytest.raises(ConfigError, match="a file that is no socket"):
        listen(uds=str(link))
    assert link.is_symlink()


only_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="abstract sockets")


@only_linux
@pytest.mark.parametrize("first", ["@", "\0"])
def test_an_abstract_socket_has_no_file(listen, tmp_path, monkeypatch, first):
    """`@NAME`, or NUL and the name from Python; used once at a time."""
    monkeypatch.chdir(tmp_path)
    name = f"fastserve-test-{os.getpid()}"
    (listener,) = listen(uds=first + name)

    assert listener.label == f"unix:@{name}"
    assert os.listdir(tmp_path) == []
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + name)
    with pytest.raises(ConfigError, match=f"unix:@{name} is in use"):
        listen(bind=(f"unix:@{name}",))


def test_a_file_may_begin_with_an_at_sign(listen, tmp_path, monkeypatch):
    """Behind its directory."""
    monkeypatch.chdir(tmp_path)
    listen(uds="./@s")

    assert (tmp_path / "@s").exists()


# --- inherited sockets -------------------------------------------------------------------


def test_an_inherited_listening_socket_is_adopted(listen):
    """As systemd or a test runner hands it over."""
    with socket.create_server((LOCALHOST, 0)) as parent:
        (listener,) = listen(fd=os.dup(parent.fileno()))

        assert listener.label.startswith(f"http://127.0.0.1:{parent.getsockname()[1]} (fd ")
        assert not listener.socket.get_inheritable()


def test_a_descriptor_that_does_not_listen_is_refused_and_left_open(listen, tmp_path):
    """A connected socket, a datagram socket, a file, nothing: each says why."""
    with (
        socket.socket() as idle,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        open(tmp_path / "f", "w") as file,
    ):
        for opened, reason in [
            (idle, "does not listen"), (datagrams, "no stream socket"), (file, "it is no socket"),
        ]:
            with pytest.raises(ConfigError, match=reason):
                listen(fd=opened.fileno())
            os.fstat(opened.fileno())

    with pytest.raises(ConfigError, match="it is not open"):
        listen(bind=("fd://9999",))
