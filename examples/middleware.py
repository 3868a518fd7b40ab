"""Middleware: wrap every request; the first registered is the outermost.

fastserve run examples/middleware.py
curl -i http://127.0.0.1:8000/                      # see the server-timing header
curl -i http://127.0.0.1:8000/admin                 # 401
curl -i -H 'authorization: let-me-in' http://127.0.0.1:8000/admin
"""

import time

from fastserve import App, HTTPError, Request

app = App()


@app.middleware
async def timing(request: Request, call_next):
    begin = time.perf_counter()
    response = await call_next(request)
    spent = (time.perf_counter() - begin) * 1000
    response.headers["server-timing"] = f"app;dur={spent:.3f}"
    return response


@app.middleware
async def guard(request: Request, call_next):
    if request.path == "/admin" and request.headers.get("authorization") != "let-me-in":
        raise HTTPError(401, "say the word")
    return await call_next(request)


@app.get("/")
def home():
    return "Hello, World!"


@app.get("/admin")
def admin():
    return "Welcome"
