"""The smallest useful server: text, JSON, a path parameter and a body.

fastserve run examples/hello.py
curl http://127.0.0.1:8000/
curl http://127.0.0.1:8000/users/7
curl -d 'some bytes' http://127.0.0.1:8000/echo
"""

from fastserve import App, Request, Response

app = App()


@app.get("/")
def home():
    return "Hello, World!"


@app.get("/json")
async def greeting():
    return {"message": "Hello, World!"}


@app.get("/users/{id:int}")
async def user(request: Request, id: int):
    return {"id": id}


@app.post("/echo")
async def echo(request: Request):
    return Response(await request.body(), status=201, headers={"x-kind": "echo"})
