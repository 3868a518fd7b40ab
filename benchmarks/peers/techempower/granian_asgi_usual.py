"""The ASGI entry that granian publishes: four connections without reset, orjson."""

from asgi_usual import Entry
from orjson import dumps
from usual import Batching

app = Entry(Batching(), dumps)
