"""The arena's HTTP/1.1 profiles, and what each is loaded with.

Not among them: echo-ws (fastserve has no WebSocket yet), and what is spoken over HTTP/2, HTTP/3 or
gRPC. `noise` is not measured any more; its requests are still worth surviving.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """One profile of the arena.

    connections:  how many at once, a run for each
    requests:     on each connection before it is closed; 0 is any number
    checks:       the profiles whose rules are checked for it, when not its own
    """

    connections: tuple[int, ...]
    requests: int = 0
    checks: tuple[str, ...] = ()


API = ("baseline", "json", "async-db")
MEASURED = {
    "baseline": Profile((512, 4096)),
    "pipelined": Profile((512, 4096)),
    "limited-conn": Profile((512, 4096), 10),
    "json": Profile((4096,)),
    "json-comp": Profile((512, 4096, 16384)),
    "json-tls": Profile((4096,)),
    "upload": Profile((32, 256)),
    "api-4": Profile((256,), 5, API),
    "api-16": Profile((1024,), 5, API),
    "static": Profile((1024, 4096, 6800), 200),
    "async-db": Profile((1024,)),
    "crud": Profile((4096,), 200),
}
PROFILES = {**MEASURED, "noise": Profile(())}
