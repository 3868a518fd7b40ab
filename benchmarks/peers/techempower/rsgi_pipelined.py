"""RSGI, granian's own interface, at its best, with queries that do not wait in line."""

from pipelined import Database
from rsgi_careful import Entry

app = Entry(Database())
