"""Files: a directory under a path, and one file that is offered for saving.

GET /assets/style.css is the file, GET /assets/ its index.html, and anything else that a browser
asks for there is index.html too, as a single-page application wants it. /report is a download.
"""

from pathlib import Path

from fastserve import App, FileResponse

HERE = Path(__file__).parent

app = App()
app.static("/assets", HERE / "assets", fallback="index.html", max_age_s=3600)


@app.get("/report")
def report():
    return FileResponse(HERE / "assets" / "style.css", filename="Übersicht.css")


if __name__ == "__main__":
    app.run()
