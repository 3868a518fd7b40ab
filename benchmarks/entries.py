"""The TechEmpower entries that are compared: fastserve's own, and its peers'.

To add one: write benchmarks/peers/techempower/<name>.py and one Server(...) below.

A peer has a row at its best: the pool, the statements and the template of fastserve's own entry
(peers/techempower/careful.py), orjson, its best documented flags. A `-usual` row does what its
published entry in the suite does: that one's pool, its statements, its JSON library, its flags.

Every entry wants DATABASE_URL and reads POOL_SIZE from its environment. It is one worker, without
an access log, and keeps idle connections for 75 s or longer.
"""

from benchmarks.servers import _UVICORN, REFERENCE, Server

_APPS = "benchmarks/peers/techempower"
_SUITE = "benchmarks/techempower"
_BARE = ("asyncpg", "jinja2", "cachetools")
_DATABASE = (*_BARE, "orjson", "uvloop")
_UVICORN_NEEDS = (*_DATABASE, "uvicorn", "httptools")
_STACK = (*_UVICORN_NEEDS, "starlette", "fastapi", "ujson")
_CAREFUL = f"{_UVICORN} --no-proxy-headers --ws none --lifespan on --app-dir {_APPS}"
_USUAL = f"{_UVICORN} --app-dir {_APPS}"
_GRANIAN = (
    "bin/granian --workers 1 --loop uvloop --http 1 --no-ws --no-log --backlog 16384"
    f" --backpressure 16384 --working-dir {_APPS} --port {{port}}"
)
_AS_PUBLISHED = "what its published entry does"
_BATCHES = (
    f"{_AS_PUBLISHED}; the reads of a request are one batch with one Sync, which the suite's"
    " seventh rule does not allow"
)
_BLOCKS = "WSGI: one request at a time, for which psycopg2 waits; one connection"


def _fastserve(name: str, title: str, app: str, note: str) -> Server:
    return Server(name, title, "te-fastserve", (*_BARE, "sqlalchemy[asyncio]"),
                  f"-m fastserve run {_SUITE}/{app} --port {{port}}",
                  "from fastserve import App, Request, Response", REFERENCE, note=note)


def _uvicorn(name: str, title: str, app: str, package: str, note: str = "") -> Server:
    return Server(name, title, "te-uvicorn", _STACK, f"{_CAREFUL} {app}:app",
                  f"import {package}", package, note=note)


def _usual(name: str, title: str, app: str, package: str) -> Server:
    return Server(name, title, "te-uvicorn", _STACK, f"{_USUAL} {app}:app", f"import {package}",
                  package, note=f"{_AS_PUBLISHED}; without gunicorn, which would only wait")


def _on_uvicorn(package: str, title: str, *more: str) -> Server:
    return Server(package, title, f"te-{package}", (*_UVICORN_NEEDS, *(more or (package,))),
                  f"{_CAREFUL} {package}_careful:app", f"import {package}", package)


def _granian(name: str, title: str, arguments: str, note: str = "") -> Server:
    return Server(name, title, "te-granian", (*_DATABASE, "granian"), f"{_GRANIAN} {arguments}",
                  "import granian", "granian", note=note)


def _script(package: str, title: str, *needs: str, options: str = "", note: str = "") -> Server:
    command = f"{_APPS}/{package}_careful.py {options}{{port}}"
    return Server(package, title, f"te-{package}", (*_DATABASE, *needs), command,
                  f"import {package}", package, note=note)


def _fastpysgi(name: str, title: str, arguments: str, note: str = "") -> Server:
    needs = (*_DATABASE, "fastpysgi", "falcon", "ujson", "psycopg2-binary")
    return Server(name, title, "te-fastpysgi", needs,
                  f"{_APPS}/{arguments} {{port}}", "import fastpysgi", "fastpysgi", note=note)


_BEST_FLAGS = "--runtime-mode st --http1-pipeline-flush"
_ALL = (
    _fastserve(REFERENCE, "fastserve", "app.py", "default flags"),
    _fastserve("fastserve-orm", "fastserve + SQLAlchemy", "app_orm.py",
               "default flags; an ORM does what the others do with SQL by hand"),
    _uvicorn("uvicorn-careful", "uvicorn, bare ASGI", "asgi_careful", "uvicorn"),
    _usual("uvicorn-usual", "uvicorn, bare ASGI, as published", "uvicorn_usual", "uvicorn"),
    _uvicorn("starlette", "uvicorn + Starlette", "starlette_careful", "starlette"),
    _uvicorn("fastapi", "uvicorn + FastAPI", "fastapi_careful", "fastapi"),
    _usual("fastapi-usual", "uvicorn + FastAPI, as published", "fastapi_usual", "fastapi"),
    _on_uvicorn("litestar", "uvicorn + Litestar"),
    _on_uvicorn("blacksheep", "uvicorn + BlackSheep"),
    _on_uvicorn("falcon", "uvicorn + Falcon, ASGI"),
    _granian("granian-rsgi", "granian, RSGI",
             f"{_BEST_FLAGS} --interface rsgi rsgi_careful:app"),
    _granian("granian-asgi", "granian, ASGI",
             f"{_BEST_FLAGS} --interface asgi asgi_careful:app"),
    _granian("granian-rsgi-usual", "granian, RSGI, as published",
             "--runtime-mode mt --interface rsgi rsgi_usual:app", _BATCHES),
    _granian("granian-asgi-usual", "granian, ASGI, as published",
             "--runtime-mode st --interface asgi granian_asgi_usual:app", _BATCHES),
    _script("aiohttp", "aiohttp on uvloop", "aiohttp[speedups]"),
    _script("sanic", "Sanic", "sanic", "httptools"),
    _script("robyn", "Robyn", "robyn", options="--log-level ERROR "),
    _script("socketify", "socketify", "socketify"),
    _fastpysgi("fastpysgi", "fastpysgi, ASGI", "fastpysgi_run.py asgi_careful"),
    _fastpysgi("fastpysgi-wsgi", "fastpysgi, WSGI", "fastpysgi_run.py wsgi_careful", _BLOCKS),
    _fastpysgi("falcon-wsgi", "fastpysgi + Falcon, WSGI", "fastpysgi_run.py falcon_wsgi_careful",
               _BLOCKS),
    _fastpysgi("fastpysgi-usual", "fastpysgi, ASGI, as published", "fastpysgi_usual.py",
               _BATCHES),
)

ENTRIES: dict[str, Server] = {server.name: server for server in _ALL}
