"""The floor of uploads: a bare protocol on uvloop that throws away what comes.

python bare_upload.py PORT
"""

import asyncio
import re
import sys

import uvloop


class Discard(asyncio.Protocol):
    """Knows of HTTP where the head ends, and the Content-Length."""

    def connection_made(self, transport):
        self.transport = transport
        self.size = self.left = 0

    def data_received(self, data):
        if not self.left:
            head, _, data = data.partition(b"\r\n\r\n")
            self.size = self.left = int(re.search(rb"\r\nContent-Length: (\d+)", head)[1])
        self.left -= len(data)
        if not self.left:
            body = b'{"bytes":%d}' % self.size
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def main():
    server = await asyncio.get_running_loop().create_server(
        Discard, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


uvloop.run(main())
