# Bytes in and out of one connection. Knows nothing of HTTP.
#
# Two ways to move them behind one interface: SocketTransport, with our own recv and send
# on a file descriptor that a Poller watches, and LoopChannel, over a transport of the
# event loop (TLS, unix sockets, the fakes of the tests).

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastserve._speedups.buffer cimport Buffer
from fastserve._speedups.wheel cimport Timed

cdef class LogRation:
    # So many lines of one kind in a period, whatever strangers do.
    cdef int lines
    cdef double period_s
    cdef double since               # the start of the period
    cdef int written                # in it
    cdef Py_ssize_t left_out        # since remark() was asked
    cdef bint allows(self) except -1
    cdef str remark(self)           # "" or how many were left out

cdef class Protocol(Timed):
    # What a transport delivers to. The `cpdef` side is asyncio's Protocol.
    cdef int connected(self, Channel channel) except -1
    cdef int receive(self, const char* data, Py_ssize_t size) except -1  # data dies on return
    cpdef eof_received(self)            # the peer sends no more; true keeps the way out open
    cpdef connection_lost(self, error)  # once, the last call
    cpdef pause_writing(self)           # the backlog is over its high-water mark
    cpdef resume_writing(self)          # and under its low one again
    cdef int output_waits(self) except -1       # the kernel did not take all: a client may be slow

cdef class ProtocolFactory:
    # Makes the protocols of a poller's connections, and is told of its turns.
    cdef Protocol make(self)
    cdef Py_ssize_t connection_count(self) except -1    # open or opening, over any transport
    cdef int begin_turn(self) except -1
    cdef int end_turn(self) except -1

cdef class Watcher:
    # Something with a file descriptor that a Poller watches.
    cdef int fd                     # -1 once closed
    cdef uint32_t generation        # tells a late event for a reused fd from a current one
    cdef uint32_t mask              # the events asked for
    cdef int ready(self, uint32_t events) except -1

cdef class Channel(Watcher):
    # The way out of a connection. (A Watcher, since one kind is both and Cython knows
    # single inheritance only.) write() sends at once what the kernel takes, keeps the rest.
    cdef int write(self, const char* data, Py_ssize_t size) except -1
    # The same, with a body that is kept by reference instead of copied.
    cdef int write_pair(self, const char* data, Py_ssize_t size, bytes body) except -1
    # Bytes of a file that were sent now, behind all that was written. After fewer than `size`,
    # maybe none, pause_writing() was called, and resume_writing() follows, or connection_lost()
    # where the connection broke. EOFError where the file ends before; only to be called
    # while writing is not paused. What is not in memory is read on a thread first.
    cdef Py_ssize_t send_file(self, int file, int64_t offset, Py_ssize_t size) except -1
    cdef int64_t warm_start, warm_end   # of a file: read on a thread, not to be asked about again
    cdef int warm_up(self, object loop, int file, int64_t offset, int64_t size) except -1
    cdef int warm(self) except -1       # it is in memory now
    cdef int pause_reading(self) except -1
    cdef int resume_reading(self) except -1
    cdef int shutdown_output(self) except -1    # FIN behind what is written; reading goes on
    # Both may call connection_lost before they return: make them the last thing you do.
    cdef int close(self) except -1              # behind what is written
    cdef int abort(self) except -1              # at once
    cdef int reset(self) except -1              # at once, and the peer learns that it is cut
    cdef int64_t unsent(self) except -1         # of what was written, bytes the kernel has not taken
    cdef int64_t flushed(self) except -1        # differs whenever it took some of them
    cdef object peer(self)                      # (host, port, ...), a path, or None
    cdef bint encrypted(self)
    cdef object tls(self)                       # the ssl.SSLObject, or None

cdef class LoopChannel(Channel):
    cdef object transport
    cdef bint held                  # paused by us, not by the transport
    cdef int hold(self) except -1

cdef enum:
    EVENTS_PER_TURN = 128           # connections served per wake-up of the loop

cdef struct Arrival:
    # What one connection sent, inside Poller.scratch.
    uint64_t key
    uint32_t start
    uint32_t size

cdef class Poller:
    cdef readonly object loop
    cdef ProtocolFactory factory
    cdef int epoll_fd               # -1: every descriptor goes to loop.add_reader
    cdef PyObject** watchers        # by fd: owned references, or NULL
    cdef Py_ssize_t capacity        # of `watchers`
    cdef uint32_t generation
    cdef char* scratch              # what was read and is not handled yet, of many connections
    cdef uint32_t scratch_used
    cdef Arrival arrivals[EVENTS_PER_TURN]
    cdef int arrival_count
    cdef bint gathering             # SocketTransport.write() puts small answers into `gathered`
    cdef Buffer gathered
    cdef uint64_t waiting[EVENTS_PER_TURN]  # keys of the transports with something in it
    cdef int waiting_count
    cdef list doomed                # transports whose connection_lost is due
    cdef bint doom_scheduled
    cdef LogRation mistakes
    cdef int watch(self, Watcher watcher, uint32_t mask) except -1
    cdef int change(self, Watcher watcher, uint32_t mask) except -1
    cdef int rearm(self, Watcher watcher) except -1     # tell again what is ready
    cdef int forget(self, Watcher watcher) except -1
    cdef int doom(self, SocketTransport transport) except -1
    cdef int grow(self, Py_ssize_t fd) except -1
    cdef int collect(self, Watcher watcher, uint32_t events) except -1
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
    cdef bint reading
    cdef bint writing_paused
    cdef bint file_waiting          # send_file() waits for EPOLLOUT
    cdef bint warming               # send_file() waits for a thread
    cdef bint closing               # close when the backlog is empty
    cdef bint ending                # FIN when the backlog is empty
    cdef object error               # why the connection is lost
    cdef object address
    cdef int set_mask(self) except -1
    cdef Py_ssize_t read(self, char* data, Py_ssize_t size) except -2  # -1: nothing to hand on
    cdef int send_now(self, const char* data, Py_ssize_t size) except -1
    cdef int send_gathered(self) except -1
    cdef int all_sent(self) except -1
    cdef int keep(self, bytes data, Py_ssize_t offset) except -1
    cdef int flush_backlog(self) except -1
    cdef int send_ahead(self) except -1
    cdef int wait_for_room(self) except -1
    cdef int hold_writing(self) except -1
    cdef int go_on(self) except -1
    cdef int fail(self, int code) except -1
    cdef int lose(self) except -1

# Serve a connected, non-blocking socket, whose descriptor becomes the transport's.
cdef SocketTransport open_transport(Poller poller, int fd, Protocol protocol)
