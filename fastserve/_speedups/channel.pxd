# What moves the bytes of one connection. Knows nothing of HTTP.
#
# Two ways behind one interface: SocketTransport (transport.pxd), with our own recv and send on a
# file descriptor that a Poller watches, and LoopChannel, over a transport of the event loop
# (TLS, unix sockets, the fakes of the tests).

from libc.stdint cimport int64_t, uint32_t

from fastserve._speedups.wheel cimport Timed

cdef enum:
    BACKLOG_HIGH = 64 * 1024        # pause_writing above
    BACKLOG_LOW = 16 * 1024         # resume_writing at or below
    FILE_PER_TURN = 2 * 1024 * 1024 # of a file: then it is another connection's turn
    COPIED_PIECE = 64 * 1024        # of a file, where it must pass through our memory

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
    # Whether it has room of its own for what comes next, and where: for `size` bytes at most, which
    # becomes how many. Whatever is read there is given to receive() before anything else happens.
    cdef bint has_room(self)
    cdef char* room(self, Py_ssize_t* size) except NULL
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
    cdef bint fresh                 # the kernel has not been asked for them yet
    cdef int ready(self, uint32_t events) except -1

cdef class Channel(Watcher):
    # The way out of a connection. (A Watcher, since one kind is both and Cython knows
    # single inheritance only.) write() sends at once what the kernel takes, keeps the rest.
    cdef int write(self, const char* data, Py_ssize_t size) except -1
    # The same, with a body that is kept by reference instead of copied.
    cdef int write_pair(self, const char* data, Py_ssize_t size, bytes body) except -1
    # Whether the kernel is to keep little of what the client does not take: for bodies that are
    # made while they are sent, of which nobody is ahead for nothing.
    cdef int limit_unsent(self, bint limited) except -1
    # Send a part of a file behind all that was written; only to be called while writing is not
    # paused. `file_sent` tells how much of it was sent: all, or pause_writing() was called and
    # the channel may go on by itself until it calls resume_writing(), or connection_lost(). Until
    # then, or stop_file(), the descriptor must stay open. Then ask again for what is not sent.
    # EOFError where the file ends before. What is not in memory is read on a thread first.
    cdef int64_t file_sent
    cdef int send_file(self, int file, int64_t offset, int64_t size) except -1
    cdef int stop_file(self) except -1
    # How much of a part of a file is in memory; 0: a thread reads it, and warm() follows.
    cdef int64_t at_hand(self, object loop, int file, int64_t offset, int64_t size) except -1
    cdef int64_t warm_start, warm_end   # of the file: known to be in memory
    cdef bint begin_reading(self, object loop, int file) except -1
    cdef int warm(self) except -1
    cdef int pause_reading(self) except -1
    cdef int resume_reading(self) except -1
    cdef int shutdown_output(self) except -1    # FIN behind what is written; reading goes on
    # Read once what may have arrived and was not told of yet.
    cdef int read_arrived(self) except -1
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
    cdef int64_t written            # bytes given to it, in all
    cdef bint held                  # paused by us, not by the transport
    cdef int hold(self) except -1
