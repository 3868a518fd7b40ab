"""What `python -m benchmarks` drives: the handlers of the published figures, nothing special.

fastserve run examples/bench.py
curl http://127.0.0.1:8000/plaintext
curl 'http://127.0.0.1:8000/users/42?page=2&sort=name'
curl -d '{"a": 1}' http://127.0.0.1:8000/echo-json
"""

from fastserve import App, Request

app = App()


@app.get("/plaintext")
def plaintext():
    return "Hello, World!"


@app.get("/plaintext-async")
async def plaintext_async():
    return "Hello, World!"


@app.get("/json")
async def json():
    return {"message": "Hello, World!"}


@app.get("/users/{id:int}")
async def user(request: Request, id: int):
    return {"id": id, "page": request.query["page"], "sort": request.query["sort"]}


@app.post("/echo-json")
async def echo_json(request: Request):
    return await request.json()
