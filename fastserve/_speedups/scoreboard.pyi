LAYOUT: int
HEADER_BYTES: int
MAX_ROWS: int
ROW_BYTES: int
RING_RECORDS: int
RECORD_BYTES: int
BLOCK_BYTES: int
AT_LAYOUT: int
AT_PID: int
AT_BORN_NS: int
AT_WALL_OFFSET_NS: int
AT_ROWS: int
AT_CURRENT: int
AT_SLOT: int
AT_CONNECTIONS: int
AT_IN_FLIGHT: int
AT_WAITING: int
AT_ACCEPT_QUEUE: int
AT_DRAINING: int
AT_LAG_NS: int
AT_LONGEST_LAG_NS: int
AT_TICKED_NS: int
FIRST_COUNTER: int
AT_CONNECTIONS_TOTAL: int
AT_REQUESTS: int
AT_BYTES_IN: int
AT_BYTES_OUT: int
AT_SHED: int
AT_REJECTED: int
AT_LINES_DROPPED: int
AT_EXPIRED: int
AT_HANDLERS_EXPIRED: int
AT_LAG_SUM_NS: int
AT_LAG_HISTOGRAM: int
AFTER_COUNTERS: int
ROW_SUM_NS: int
ROW_BODY_BYTES: int
ROW_HISTOGRAM: int
BUCKETS: int
ROW_STATUSES: int
STATUSES: int
ROW_LABEL: int
LABEL_BYTES: int
RECORD_NUMBER: int
RECORD_BEGUN_NS: int
RECORD_ANSWERED_NS: int
RECORD_ENDED_NS: int
RECORD_BODY_BYTES: int
RECORD_STATUS: int
RECORD_ROW: int
RECORD_SIZES: int
RECORD_ID: int
RECORD_CLIENT: int
RECORD_LINE: int
RECORD_RAN_NS: int
ID_BYTES: int
CLIENT_BYTES: int
LINE_BYTES: int
KNOWN: tuple[int, ...]
STATUS_NAMES: tuple[str, ...]

def bucket_limit_ns(bucket: int) -> int: ...

class Scoreboard:
    def __init__(
        self, fd: int, block: int, *, slot: int = ..., recording: bool = ...
    ) -> None: ...
    def tick(self, lag_s: float, gauges: dict[int, int]) -> None: ...
    def add(self, counter: int, count: int = ...) -> None: ...
