"""The TechEmpower entries that are compared: fastserve's own, and its peers'.

To add one: write benchmarks/peers/techempower/<name>.py and one Server(...) below.

A peer has a row at its best: the pool, the statements and the template of fastserve's own entry
(peers/techempower/careful.py), orjson, its best documented flags. A `-usual` row does what its
published entry in the suite does: that one's pool, its statements, its JSON library, its flags.
A `-pipelined` row is the one at its best over fastserve's pipelined pool
(peers/techempower/pipelined.py), so that there, too, only the servers differ.

Every entry wants DATABASE_URL and reads POOL_SIZE from its environment. It is one worker without an
access log, and any number of requests may come on a connection.
"""

from benchmarks.servers import _UVICORN, REFERENCE, Server

_APPS = "benchmarks/peers/techempower"
_SUITE = "benchmarks/techempower"
_BARE = ("asyncpg", "jinja2", "cachetools")
_DATABASE = (*_BARE, "orjson", "uvloop")
_UVICORN_NEEDS = (*_DATABASE, "uvicorn", "httptools")
_PIPELINED = "psycopg[binary]"
_STACK = (*_UVICORN_NEEDS, "starlette", "fastapi", "ujson", _PIPELINED)
# Those with an environment of their own: their requirements may exclude those of others.
_ENVIRONMENTS = {
    "litestar": ("te-litestar", (*_UVICORN_NEEDS, "litestar")),
    "blacksheep": ("te-blacksheep", (*_UVICORN_NEEDS, "blacksheep", "msgspec")),
    "falcon": ("te-falcon", (*_UVICORN_NEEDS, "falcon")),
}
_CAREFUL = f"{_UVICORN} --no-proxy-headers --ws none --lifespan on --app-dir {_APPS}"
_USUAL = f"{_UVICORN} --app-dir {_APPS}"
_GRANIAN = (
    "bin/granian --workers 1 --loop uvloop --http 1 --no-ws --no-log --backlog 16384"
    f" --backpressure 16384 --working-dir {_APPS} --port {{port}}"
)
_BEST = "--runtime-mode st --http1-pipeline-flush"
_AS_PUBLISHED = "what its published entry does"
_BATCHES = (
    f"{_AS_PUBLISHED}; the reads of a request are one batch with one Sync, which the suite's"
    " seventh rule does not allow"
)
_IN_LINE = "each query has a Sync of its own and does not wait for the one before it"
_FLUSH = "--http1-pipeline-flush, which granian calls experimental, is on"
_AWAKE = "--busy-poll-us 10000"
_POLLS = "polls between two event loops, one of them uvloop's"
_BLOCKS = "WSGI: one request at a time, for which psycopg2 waits; one connection"


def _fastserve(name: str, title: str, app: str, note: str, options: str = "") -> Server:
    return Server(name, title, "te-fastserve", (*_BARE, "sqlalchemy[asyncio]", _PIPELINED),
                  f"-m fastserve run {_SUITE}/{app} --port {{port}} {options}".rstrip(),
                  "from fastserve import App, Request, Response", REFERENCE, note=note)


def _uvicorn(name: str, title: str, app: str, package: str, note: str = "") -> Server:
    """On uvicorn, at its best."""
    venv, requires = _ENVIRONMENTS.get(package, ("te-uvicorn", _STACK))
    return Server(name, f"uvicorn{title}", venv, requires, f"{_CAREFUL} {app}:app",
                  f"import uvicorn, {package}", package, note=note)


def _usual(name: str, title: str, app: str, package: str) -> Server:
    """On uvicorn, as published."""
    venv, requires = _ENVIRONMENTS.get(package, ("te-uvicorn", _STACK))
    return Server(name, f"uvicorn{title}, as published", venv, requires, f"{_USUAL} {app}:app",
                  f"import uvicorn, {package}", package,
                  note=f"{_AS_PUBLISHED}; without gunicorn, which would only wait")


def _granian(name: str, title: str, arguments: str, note: str) -> Server:
    return Server(name, f"granian, {title}", "te-granian", (*_DATABASE, "granian", _PIPELINED),
                  f"{_GRANIAN} {arguments}", "import granian", "granian", note=note)


def _script(name: str, title: str, arguments: str, *needs: str, note: str = "") -> Server:
    """A program that starts its server itself."""
    package = name.partition("-")[0]
    return Server(name, title, f"te-{package}", (*_DATABASE, *needs),
                  f"{_APPS}/{arguments} {{port}}", f"import {package}", package, note=note)


def _fastpysgi(name: str, title: str, arguments: str, note: str) -> Server:
    needs = (*_DATABASE, "fastpysgi", "falcon", "ujson", "psycopg2-binary", _PIPELINED)
    return Server(name, f"fastpysgi{title}", "te-fastpysgi", needs,
                  f"{_APPS}/{arguments} {{port}}", "import fastpysgi", "fastpysgi", note=note)


_ALL = (
    _fastserve(REFERENCE, "fastserve", "app.py", "default flags"),
    _fastserve("fastserve-pipelined", "fastserve, queries pipelined", "app_pipelined.py",
               f"default flags; {_IN_LINE}"),
    _fastserve("fastserve-polling", "fastserve, busy polling", "app.py",
               f"{_AWAKE}: looks for work for 10 ms before it sleeps", _AWAKE),
    _fastserve("fastserve-polling-pipelined", "fastserve, busy polling, queries pipelined",
               "app_pipelined.py", f"{_AWAKE}; {_IN_LINE}", _AWAKE),
    _fastserve("fastserve-orm", "fastserve + SQLAlchemy", "app_orm.py",
               "default flags; an ORM does what the others do with SQL by hand"),
    _uvicorn("uvicorn-careful", ", bare ASGI", "asgi_careful", "uvicorn"),
    _uvicorn("uvicorn-pipelined", ", bare ASGI, queries pipelined", "asgi_pipelined",
             "uvicorn", _IN_LINE),
    _usual("uvicorn-usual", ", bare ASGI", "uvicorn_usual", "uvicorn"),
    _uvicorn("starlette", " + Starlette", "starlette_careful", "starlette"),
    _usual("starlette-usual", " + Starlette", "starlette_usual", "starlette"),
    _uvicorn("fastapi", " + FastAPI", "fastapi_careful", "fastapi"),
    _usual("fastapi-usual", " + FastAPI", "fastapi_usual", "fastapi"),
    _uvicorn("litestar", " + Litestar", "litestar_careful", "litestar"),
    _usual("litestar-usual", " + Litestar", "litestar_usual", "litestar"),
    _uvicorn("blacksheep", " + BlackSheep", "blacksheep_careful", "blacksheep"),
    _usual("blacksheep-usual", " + BlackSheep", "blacksheep_usual", "blacksheep"),
    _uvicorn("falcon", " + Falcon, ASGI", "falcon_careful", "falcon",
             "its published entries ask by way of an ORM: Tortoise, or Pony"),
    _granian("granian-rsgi", "RSGI", f"{_BEST} --interface rsgi rsgi_careful:app", _FLUSH),
    _granian("granian-rsgi-pipelined", "RSGI, queries pipelined",
             f"{_BEST} --interface rsgi rsgi_pipelined:app", f"{_FLUSH}; {_IN_LINE}"),
    _granian("granian-rsgi-usual", "RSGI, as published",
             "--runtime-mode mt --interface rsgi rsgi_usual:app", _BATCHES),
    _granian("granian-asgi", "ASGI", f"{_BEST} --interface asgi asgi_careful:app", _FLUSH),
    _granian("granian-asgi-usual", "ASGI, as published",
             "--runtime-mode st --interface asgi granian_asgi_usual:app", _BATCHES),
    _script("aiohttp", "aiohttp on uvloop", "aiohttp_careful.py", "aiohttp[speedups]"),
    _script("aiohttp-usual", "aiohttp on uvloop, as published", "aiohttp_usual.py",
            "aiohttp[speedups]", note=f"{_BATCHES}; more than five writes are one statement"),
    _script("sanic", "Sanic", "sanic_careful.py", "sanic", "httptools",
            note="single_process; it sends neither Server nor Date: the entry adds them, as its"
            " published one does"),
    _script("sanic-usual", "Sanic, as published", "sanic_usual.py", "sanic", "httptools",
            note=f"{_AS_PUBLISHED}, with single_process"),
    _script("robyn", "Robyn", "robyn_careful.py --log-level ERROR", "robyn",
            note="one process, one worker; no const routes: those are answered without Python;"
            " its published entry has /plaintext and /json alone"),
    _script("socketify", "socketify", "socketify_careful.py", "socketify",
            note=f"{_POLLS}; its published entry has /plaintext and /json"
            " alone"),
    _fastpysgi("fastpysgi", ", ASGI", "fastpysgi_run.py asgi_careful", _POLLS),
    _fastpysgi("fastpysgi-pipelined", ", ASGI, queries pipelined",
               "fastpysgi_run.py asgi_pipelined", f"{_POLLS}; {_IN_LINE}"),
    _fastpysgi("fastpysgi-usual", ", ASGI, as published", "fastpysgi_usual.py",
               f"{_BATCHES}; polls between two event loops"),
    _fastpysgi("fastpysgi-wsgi", ", WSGI", "fastpysgi_run.py wsgi_careful", _BLOCKS),
    _fastpysgi("falcon-wsgi", " + Falcon, WSGI", "fastpysgi_run.py falcon_wsgi_careful", _BLOCKS),
)

ENTRIES: dict[str, Server] = {server.name: server for server in _ALL}
