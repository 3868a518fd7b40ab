"""What answers while the application cannot start: a page that says why, and asks again.

A browser gets HTML that loads itself anew each second, so that the fixed application appears
by itself; anything else gets text. The status is 503 on every path, for every method. The reason
is shown only where nobody but this machine listens.
"""

from __future__ import annotations

import html

from fastserve._speedups.messages import Request
from fastserve._speedups.responses import Response
from fastserve.app import App
from fastserve.errors import HTTPError

HEADERS = {"cache-control": "no-store", "retry-after": "1"}
SILENT = "The application does not start; its log says why."
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="1">
<title>The application does not start</title>
<style>body {{ font: 16px sans-serif; margin: 2em }} pre {{ overflow: auto }}</style></head>
<body><h1>The application does not start</h1><pre>{reason}</pre>
<p>This page looks again each second.</p></body></html>
"""


def stand_in(reason: str, *, shown: bool) -> App:
    """An application that answers everything with the reason why another does not start.

    shown:  whether clients may read it
    """
    app = App()
    text = reason if shown else SILENT
    page = PAGE.format(reason=html.escape(text))

    @app.exception_handler(HTTPError)
    def refuse(request: Request, error: HTTPError) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return Response.html(page, 503, HEADERS)
        return Response.text(text + "\n", 503, HEADERS)

    return app
