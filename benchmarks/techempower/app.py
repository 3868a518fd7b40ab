"""The seven tests of the TechEmpower suite on fastserve, with SQL as one writes it by hand.

DATABASE_URL=postgresql://... fastserve run benchmarks/techempower/app.py
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from fastserve import App

app = App()
templates = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True)
page = templates.get_template("fortunes.html")


@app.get("/plaintext")
def plaintext():
    return "Hello, World!"


@app.get("/json")
def json():
    return {"message": "Hello, World!"}
