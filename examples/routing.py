"""Routes: converters, a group under a prefix, several methods on one path.

fastserve run examples/routing.py
curl http://127.0.0.1:8000/api/books/7
curl http://127.0.0.1:8000/files/a/b/c.txt
curl -X PUT http://127.0.0.1:8000/api/books/7
curl -i http://127.0.0.1:8000/api/books/seven      # does not convert: 404
"""

from fastserve import App, Request, Router

app = App()
api = Router(prefix="/api")


@api.get("/books/{id:int}", name="book")
def book(id: int):
    return {"id": id}


@api.route("/books/{id:int}", methods=["PUT", "PATCH"])
def change(request: Request, id: int):
    return {"id": id, "changed_by": request.method}


app.include(api)


@app.get("/files/{path:path}")
def file(path: str):
    return f"you asked for {path}"


@app.get("/first")
def first():
    return {"the first book is at": app.url_for("book", id=1)}
