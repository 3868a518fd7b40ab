"""Lifespan: open what the application needs before the first request, close it after the last.

fastserve run examples/lifespan.py
curl http://127.0.0.1:8000/visits
"""

import sqlite3
from contextlib import asynccontextmanager

from fastserve import App, Request


@asynccontextmanager
async def lifespan(app: App):
    database = sqlite3.connect(":memory:")
    database.execute("create table visits (path text)")
    yield {"database": database}  # what is yielded is found in app.state
    database.close()


app = App(lifespan=lifespan)


@app.get("/visits")
def visits(request: Request):
    database = request.app.state.database
    database.execute("insert into visits values (?)", (request.path,))
    return {"visits": database.execute("select count(*) from visits").fetchone()[0]}
