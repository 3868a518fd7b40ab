"""A bare ASGI callable at its best, with queries that do not wait in line."""

from asgi_careful import Entry
from pipelined import Database

app = Entry(Database())
