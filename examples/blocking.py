"""Blocking code: a handler that would hold the event loop runs on a thread instead.

fastserve run examples/blocking.py
curl http://127.0.0.1:8000/slow & curl http://127.0.0.1:8000/quick     # quick answers first
"""

import time

from fastserve import App, blocking

app = App()


@app.get("/slow")
@blocking
def slow():
    time.sleep(1)
    return "that took a second\n"


@app.get("/quick")
def quick():
    return "at once\n"
