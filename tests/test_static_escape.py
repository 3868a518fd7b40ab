"""No way out of a static directory: a corpus of paths, links and races.

CVE-2024-23334 (aiohttp, links), CVE-2023-29159 (starlette, a sibling with the same prefix) and
PYSEC-2017-40 (sanic, an escaped slash) are rows of it. Everything is asked twice: with
openat2(2), and with the walk that stands in for it where the kernel has none.
"""

import asyncio
import os
import socket
import threading

import pytest
from support import Bench, read_replies, request, running_loop

from fastserve import App
from fastserve._speedups.files import Root
from fastserve.files import StaticFiles, StaticOptions

SECRET = b"a secret"
CORPUS = [
    # the plain ways up
    "/static/../secret.txt", "/static/../../secret.txt", "/static/a/../../secret.txt",
    "/static/a/b/../../../secret.txt", "/static/./../secret.txt", "/static/..", "/static/../",
    "/static/...", "/static/.../secret.txt", "/static/a/..", "/static/a/.", "/static/.",
    # a sibling with the same prefix
    "/static/../static1/secret.txt", "/static1/secret.txt", "/static/..static1/secret.txt",
    # escaped
    "/static/%2e%2e/secret.txt", "/static/%2E%2E/secret.txt", "/static/.%2e/secret.txt",
    "/static/%2e./secret.txt", "/static/..%2fsecret.txt", "/static/..%2Fsecret.txt",
    "/static/%2e%2e%2fsecret.txt", "/static/a%2f..%2f..%2fsecret.txt", "/static/%2fetc%2fpasswd",
    "/static/%2e%2e%5csecret.txt", "/static/..%5csecret.txt", "/static/..%5Csecret.txt",
    "/static/%252e%252e/secret.txt", "/static/..%252fsecret.txt", "/static/%25%32%65%25%32%65/s",
    "/static/%c0%ae%c0%ae/secret.txt", "/static/%c0%af../secret.txt", "/static/%e0%80%ae./s",
    "/static/%uff0e%uff0e/secret.txt", "/static/%ef%bc%8e%ef%bc%8e/secret.txt",
    "/static/%2e%2e;/secret.txt", "/static/..;/secret.txt", "/static/;/../secret.txt",
    # absolute, empty, backslashes, NUL
    "/static//etc/passwd", "/static///etc/passwd", "/static//", "/static//a.txt", "/static/a//b/c.txt",
    "/static/\\..\\secret.txt", "/static/..\\secret.txt", "/static/a\\b", "/static/%5c%5chost%5cx",
    "/static/a.txt%00", "/static/a.txt%00.png", "/static/%00", "/static/C:/secret.txt",
    "/static/file:///etc/passwd",
    # what is no file
    "/static/fifo", "/static/socket", "/static/a", "/static/zero", "/static/a.txt/", "/static/a.txt/x",
    "/static/" + "x" * 300, "/static/" + "x/" * 2000, "/static/%",
    # hidden
    "/static/.env", "/static/.git/config", "/static/a/.hidden", "/static/%2eenv", "/static/.env/",
    # links
    "/static/link-out", "/static/link-abs", "/static/link-dir/secret.txt", "/static/link-up/secret.txt",
    "/static/link-root/etc/passwd", "/static/link-loop", "/static/link-proc/root/etc/passwd",
    "/static/link-deep", "/static/link-sibling/secret.txt",
]


@pytest.fixture
def tree(tmp_path):
    """A root `static` with what it may serve, and around it what it must not."""
    root = tmp_path / "static"
    (root / "a" / "b").mkdir(parents=True)
    (root / ".git").mkdir()
    for name in ("a.txt", "a/b/c.txt", "...txt", "a..b"):
        (root / name).write_bytes(b"public")
    for name in (".env", ".git/config", "a/.hidden"):
        (root / name).write_bytes(SECRET)
    (tmp_path / "static1").mkdir()
    for name in ("secret.txt", "static1/secret.txt"):
        (tmp_path / name).write_bytes(SECRET)
    for name, target in {
        "link-in": "a.txt", "a/link-back": "../a.txt", "link-folder": "a/b", "a/chain": "link-back",
        "link-slash": "a/b/",
        "link-out": "../secret.txt", "link-abs": str(tmp_path / "secret.txt"), "link-dir": "..",
        "link-up": "a/../..", "link-root": "/", "link-loop": "link-loop",
        "link-proc": "/proc/self", "link-deep": "a/b/../../../secret.txt",
        "link-sibling": "../static1",
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    return root


def app_of(tree, *, use_openat2, **options):
    app = App()
    files = StaticFiles(
        tree, app.blocking_pool, StaticOptions(**options), use_openat2=use_openat2)
    app.get("/static/{path:path}")(files.shelf.get)
    return app


@pytest.fixture(params=[True, False], ids=["openat2", "walk"])
def ask(request, tree):
    """ask(target, **options): the reply to a GET of it."""
    benches = []
    with running_loop(asyncio.new_event_loop) as loop:

        def ask(target, **options):
            bench = Bench(app_of(tree, use_openat2=request.param, **options), loop, "fake")
            benches.append(bench)
            return get(bench, target)

        yield ask
        for bench in benches:
            bench.close()
            bench.engine.app.blocking_pool.close()


def get(bench, target):
    link = bench.connect()
    link.send(request(target))
    bench.wait_for(lambda: read_replies(link.received)[0] != [])
    return link.replies()[0]


@pytest.mark.parametrize("target", CORPUS, ids=lambda target: target[8:48])
def test_no_path_leads_out(ask, target):
    """Each is a 404, or a 400 where it is no path at all; what is refused says nothing more."""
    reply = ask(target)

    assert reply.status in (400, 404), reply
    assert SECRET not in reply.body


def test_the_corpus_is_as_large_as_it_has_to_be():
    """Sixty paths at least, none of them twice."""
    assert len(set(CORPUS)) == len(CORPUS) >= 60


@pytest.mark.parametrize("target", [
    "/static/a.txt", "/static/a/b/c.txt", "/static/%61.txt", "/static/...txt", "/static/a..b",
    "/static/link-in", "/static/a/link-back", "/static/link-folder/c.txt", "/static/a/chain",
    "/static/link-slash/c.txt",
])
def test_what_is_beneath_is_served(ask, target):
    """Links that stay inside among it, and dots that are only dots."""
    if target == "/static/...txt":      # hidden by its first dot
        assert ask(target).status == 404
        assert ask(target, hidden=True).body == b"public"
    else:
        assert ask(target).body == b"public"


@pytest.mark.parametrize(
    "target", ["/static/link-in", "/static/link-folder/c.txt", "/static/a/link-back"])
def test_links_may_be_left_out(ask, target):
    """symlinks=False: a link is not there, at the end of a path or inside."""
    assert ask(target, symlinks=False).status == 404
    assert ask("/static/a/b/c.txt", symlinks=False).body == b"public"


def test_hidden_names_may_be_served(ask):
    """hidden=True, and even then no "..": it is no name."""
    assert ask("/static/.env", hidden=True).body == SECRET
    assert ask("/static/../secret.txt", hidden=True).status == 404


def test_a_device_is_no_file(ask, tree):
    """Reading one has effects; a 404."""
    try:
        os.mknod(tree / "zero", 0o666 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root can make a device")

    assert ask("/static/zero").status == 404


@pytest.mark.parametrize("use_openat2", [True, False])
@pytest.mark.parametrize("name", [
    b"../secret.txt", b"a/../../secret.txt", b"link-out", b"link-abs", b"link-dir/secret.txt",
    b"link-up/secret.txt", b"link-deep", b"/etc/passwd", b"link-root/etc/passwd", b"..",
    b"link-loop", b"a.txt\0",
])
def test_the_root_itself_does_not_let_out(tree, name, use_openat2):
    """The last line of defence, without the checks in front of it."""
    root = Root(str(tree), use_openat2=use_openat2)

    with pytest.raises(OSError, match=r"."):
        root.open(name, False)


@pytest.mark.parametrize("use_openat2", [True, False])
def test_a_race_with_a_rename_ends_beneath_or_nowhere(tree, use_openat2):
    """A directory is exchanged for a link to the outside, again and again, while it is opened."""
    root = Root(str(tree), use_openat2=use_openat2)
    (tree / "real").mkdir()
    (tree / "real" / "secret.txt").write_bytes(b"public")
    (tree / "evil").symlink_to("..")
    stop = threading.Event()

    def exchange():
        while not stop.is_set():
            os.rename(tree / "real", tree / "aside")
            os.rename(tree / "evil", tree / "real")
            os.rename(tree / "real", tree / "evil")
            os.rename(tree / "aside", tree / "real")

    racer = threading.Thread(target=exchange)
    racer.start()
    seen = set()
    try:
        for _ in range(3000):
            try:
                file = root.open(b"real/secret.txt", False)
            except OSError:
                seen.add("nowhere")
                continue
            seen.add(os.pread(file.fd, 100, 0))
            file.release()
    finally:
        stop.set()
        racer.join()

    assert seen <= {b"public", "nowhere"}
    assert b"public" in seen


def test_a_directory_that_is_replaced_is_noticed(tree, tmp_path):
    """A deployment moves a new directory into place; the old one is not served for ever."""
    root = Root(str(tree))
    tree.rename(tmp_path / "old")
    tree.mkdir()
    (tree / "a.txt").write_bytes(b"new")
    seen = set()
    for _ in range(200):
        file = root.open(b"a.txt", False)
        seen.add(os.pread(file.fd, 10, 0))
        if b"new" in seen:
            break
        threading.Event().wait(0.01)

    assert b"new" in seen
