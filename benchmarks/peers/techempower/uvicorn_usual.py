"""The entry that uvicorn publishes: asyncpg's pool as it comes, ujson."""

from asgi_usual import Entry
from ujson import dumps
from usual import Resetting

app = Entry(Resetting(), lambda value: dumps(value).encode())
