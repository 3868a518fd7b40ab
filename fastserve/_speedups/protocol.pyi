from fastserve._speedups.engine import Engine

class HttpEngine(Engine):
    """An Engine whose connections speak HTTP/1.1."""
