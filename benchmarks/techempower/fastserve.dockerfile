FROM python:3.13-slim

WORKDIR /fastserve

# A wheel that lies beside this file is preferred to the package index.
COPY ./ ./
RUN pip install --no-cache-dir --find-links . -r requirements.txt

EXPOSE 8080

CMD ["fastserve", "run", "app.py", "--host", "0.0.0.0", "--port", "8080", "--workers", "auto"]
