"""Forms and files: a whole form, its parts one by one, and a body as it comes.

pip install 'fastserve[forms]'
fastserve run examples/upload.py
curl -F title=Holiday -F photo=@beach.jpg http://127.0.0.1:8000/form
curl -F a=@large.iso -F b=@larger.iso http://127.0.0.1:8000/parts
curl -T large.iso http://127.0.0.1:8000/count
"""

import hashlib

from fastserve import App, Request, UploadFile

app = App()


@app.post("/form", max_body_bytes=100 * 1024 * 1024)
async def form(request: Request):
    """The whole form: what is large waits on disk."""
    form = await request.form()
    photo = form["photo"]
    if not isinstance(photo, UploadFile):
        return "photo is to be a file\n", 400
    start = await photo.read(16)
    return {"title": form["title"], "name": photo.filename, "bytes": photo.size,
            "type": photo.content_type, "is_png": start.startswith(b"\x89PNG")}


@app.post("/parts")
async def parts(request: Request):
    """Files of any size, none of them kept: the client is read from as fast as we hash."""
    digests = {}
    async for part in request.parts():
        digest = hashlib.sha256()
        async for piece in part:
            digest.update(piece)
        digests[part.name] = digest.hexdigest()
    return digests


@app.route("/count", methods=["POST", "PUT"])
async def count(request: Request):
    """A body that is no form."""
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return {"bytes": size}
