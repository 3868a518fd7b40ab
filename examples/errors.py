"""Errors: an HTTP error on purpose, an exception of yours as an answer, and the one you forgot.

fastserve run examples/errors.py
curl -i http://127.0.0.1:8000/stock/unicorns        # 404 and why
curl -i http://127.0.0.1:8000/take/nails/500        # 409, from the exception handler
curl -i http://127.0.0.1:8000/bug                   # 500; the traceback is in the log only
"""

from fastserve import App, HTTPError

app = App()
stock = {"nails": 100, "screws": 40}


class OutOfStock(Exception):
    pass


@app.exception_handler(OutOfStock)
def out_of_stock(request, error: OutOfStock):
    return {"error": str(error)}, 409


@app.get("/stock/{item}")
def count(item: str):
    if item not in stock:
        raise HTTPError(404, f"we do not sell {item}")
    return {item: stock[item]}


@app.get("/take/{item}/{n:int}")
def take(item: str, n: int):
    if stock.get(item, 0) < n:
        raise OutOfStock(f"{n} {item} are not there")
    return {item: stock[item] - n}


@app.get("/bug")
def bug():
    return 1 // 0
