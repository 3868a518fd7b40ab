# Sockets of our own, and the Poller that watches them. Knows nothing of HTTP.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastserve._speedups.buffer cimport Buffer
from fastserve._speedups.channel cimport Channel, LogRation, Protocol, ProtocolFactory, Watcher
from fastserve._speedups.watchers cimport Watchers

cdef enum:
    EVENTS_PER_TURN = 128           # connections served per wake-up of the loop

cdef struct Arrival:
    # What one connection sent, inside Poller.scratch.
    uint64_t key
    uint32_t start
    uint32_t size

cdef class Poller(Watchers):
    cdef ProtocolFactory factory
    cdef char* scratch              # what was read and is not handled yet, of many connections
    cdef uint32_t scratch_used
    cdef Arrival arrivals[EVENTS_PER_TURN]
    cdef int arrival_count
    cdef bint collecting            # arrivals are still added to this turn
    cdef bint welcomed              # some of them came with their connection
    cdef bint gathering             # SocketTransport.write() puts small answers into `gathered`
    cdef Buffer gathered
    cdef uint64_t waiting[EVENTS_PER_TURN]  # keys of the transports with something in it
    cdef int waiting_count
    cdef list doomed                # transports whose connection_lost is due
    cdef bint doom_scheduled
    cdef LogRation mistakes
    cdef int doom(self, SocketTransport transport) except -1
    cdef int collect(self, Watcher watcher, uint32_t events) except -1
    cdef bint has_room(self) noexcept       # for one arrival more
    cdef bint read_arrival(self, SocketTransport transport) except -1
    cdef int welcome(self, SocketTransport transport) except -1
    cdef int register_welcomed(self) except -1
    cdef int handle_arrivals(self) except -1
    cdef int handle_from(self, int* next, uint64_t* begun) except -1
    cdef int send_gathered(self) except -1
    cdef int send_from(self, int* next) except -1
    cdef int drop(self, Watcher watcher) except -1

cdef class SocketTransport(Channel):
    cdef Poller poller
    cdef Protocol protocol
    cdef list backlog               # bytes the kernel has not taken, in order; None when empty
    cdef Py_ssize_t backlog_offset  # sent of backlog[0]
    cdef Py_ssize_t backlog_size    # still to send, over all of them
    cdef int64_t backlog_sent       # in all
    cdef Py_ssize_t gathered_start  # of what waits in Poller.gathered for the end of the turn
    cdef Py_ssize_t gathered_size   # 0: nothing does
    cdef int file                   # that is being sent; -1: none
    cdef int64_t file_at, file_left
    cdef bint limited               # in what the kernel keeps unsent
    cdef bint reading
    cdef bint unread                # something came, or was left, while nobody read
    cdef bint writing_paused
    cdef bint warming               # the file waits for a thread
    cdef bint closing               # close when the backlog is empty
    cdef bint ending                # FIN when the backlog is empty
    cdef object error               # why the connection is lost
    cdef object address
    cdef int set_mask(self) except -1
    cdef bint output_stands(self) noexcept      # something waits for the kernel to have room
    cdef int read_into_room(self) except -1
    cdef int read_arrived(self) except -1
    cdef int read_later(self) except -1         # there may be more than was read
    cdef Py_ssize_t read(self, char* data, Py_ssize_t size) except -2  # -1: nothing to hand on
    cdef int send_now(self, const char* data, Py_ssize_t size) except -1
    cdef int send_gathered(self) except -1
    cdef int all_sent(self) except -1
    cdef int keep(self, bytes data, Py_ssize_t offset) except -1
    cdef int flush_backlog(self) except -1
    cdef int send_ahead(self) except -1
    cdef int push_file(self) except -1
    cdef int go_on_sending(self) except -1
    cdef int fail(self, int code) except -1
    cdef int lose(self) except -1

# Serve a connected, non-blocking socket, whose descriptor becomes the transport's.
cdef SocketTransport open_transport(Poller poller, int fd, Protocol protocol)

# The same for one that was accepted just now: what its client has sent is handled in this turn.
cdef SocketTransport welcome_transport(Poller poller, int fd, Protocol protocol)
