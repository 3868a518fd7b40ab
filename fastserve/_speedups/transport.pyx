# Sockets and the poller: see transport.pxd for the contract.
#
# The poller's epoll set (watchers.pyx) is one descriptor to the event loop. One wake-up of the
# loop then serves every ready connection, without a handle, a context switch and a GIL round
# trip for each, and an idle connection costs no loop object.
#
# A turn reads from all ready connections, then handles what came, then sends the answers:
# the kernel's network code and ours each push the other out of the processor's caches, and
# in this order they do so once per turn instead of twice per request. Answers wait for
# their turn's end, but never longer than GATHER_CYCLES and the handler that is running.
#
# System calls on sockets never block, so the GIL stays held: giving it up costs more than they
# do.

import logging
import os
import socket
import struct

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.errno cimport EINVAL, ENOSYS
from libc.stdlib cimport free, malloc

from fastserve._speedups.buffer cimport Buffer
from fastserve._speedups.channel cimport (
    BACKLOG_HIGH, BACKLOG_LOW, COPIED_PIECE, FILE_PER_TURN, Channel, LogRation, Protocol,
    Watcher)
from fastserve._speedups.system cimport (
    ECONNRESET, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, MSG_MORE,
    MSG_NOSIGNAL, SHUT_WR, c_close, c_errno, c_pread, c_shutdown, epoll_event, epoll_wait,
    fs_cycles, fs_limit_unsent, fs_send_pair, fs_sendfile, recv, send, try_again)
from fastserve._speedups.watchers cimport Watchers, event_key

cdef enum:
    SCRATCH_BYTES = 512 * 1024      # read before any of it is handled
    READ_BYTES = 128 * 1024         # of one connection at a time
    UNSENT_BYTES = 128 * 1024       # the kernel's, of a body that is made while it is sent
    GATHERED_ANSWER = 16 * 1024     # a larger one is sent at once
    GATHERED_BYTES = 256 * 1024     # of all of a turn
    GATHER_CYCLES = 150_000         # some 50 microseconds
    MISTAKES_LOGGED = 10            # tracebacks
    MISTAKES_PERIOD_S = 10

logger = logging.getLogger("fastserve.error")


cdef class Poller(Watchers):
    """Watches the sockets of one worker and serves them from one callback of the loop.

    loop:       the event loop; it must have add_reader
    use_epoll:  False to give each descriptor to the loop (the only way where there is no epoll)
    """

    def __cinit__(self):
        self.scratch = <char*>malloc(SCRATCH_BYTES)
        if self.scratch == NULL:
            raise MemoryError

    def __init__(self, loop, *, bint use_epoll=True):
        Watchers.__init__(self, loop, use_epoll)
        self.doomed = []
        self.mistakes = LogRation(MISTAKES_LOGGED, MISTAKES_PERIOD_S)
        self.gathered = Buffer()

    def __dealloc__(self):
        free(self.scratch)

    def turn(self):
        """Serve what is ready, at most once each."""
        cdef epoll_event events[EVENTS_PER_TURN]
        cdef PyObject* found
        cdef Watcher watcher
        cdef int i, count = epoll_wait(self.epoll_fd, events, EVENTS_PER_TURN, 0)
        self.factory.begin_turn()
        self.collecting = True
        try:
            for i in range(count):
                if not self.has_room():
                    self.handle_arrivals()
                found = self.find(events[i].data.u64)
                if found != NULL:
                    watcher = <Watcher>found    # kept alive while it may close itself
                    try:
                        self.collect(watcher, events[i].events)
                    except Exception:
                        self.drop(watcher)
            self.handle_arrivals()
        finally:
            self.gathering = self.collecting = False
            self.arrival_count = self.scratch_used = 0
            self.factory.end_turn()
        if self.doomed:
            self.bury()

    cdef int collect(self, Watcher watcher, uint32_t events) except -1:
        cdef SocketTransport transport
        if type(watcher) is not SocketTransport:
            return watcher.ready(events)
        transport = <SocketTransport>watcher
        if not transport.reading or events != EPOLLIN and (
                events != (EPOLLIN | EPOLLOUT) or transport.output_stands()):
            return transport.ready(events)
        if transport.protocol.has_room():
            return transport.read_into_room()
        self.read_arrival(transport)
        return 0

    cdef bint has_room(self) noexcept:
        return self.arrival_count < EVENTS_PER_TURN and (
            SCRATCH_BYTES - self.scratch_used >= READ_BYTES)

    cdef bint read_arrival(self, SocketTransport transport) except -1:
        # There is room for it.
        cdef Arrival* arrival
        cdef Py_ssize_t size = transport.read(self.scratch + self.scratch_used, READ_BYTES)
        if size <= 0:
            return False
        arrival = &self.arrivals[self.arrival_count]
        arrival.key = event_key(transport)
        arrival.start = self.scratch_used
        arrival.size = <uint32_t>size
        self.arrival_count += 1
        self.scratch_used += (<uint32_t>size + 63) & ~<uint32_t>63
        return True

    cdef int welcome(self, SocketTransport transport) except -1:
        # Who connects mostly has sent a request by now, and many want no second one: those the
        # epoll set never hears of. It is asked about all others when they have been answered.
        if self.collecting and self.has_room() and self.read_arrival(transport):
            self.welcomed = True
        elif self.epoll_fd < 0 or self.find(event_key(transport)) != NULL:
            self.register(transport)
        return 0

    cdef int register_welcomed(self) except -1:
        cdef int i
        cdef PyObject* found
        cdef Watcher watcher
        self.welcomed = False
        for i in range(self.arrival_count):
            found = self.find(self.arrivals[i].key)
            if found != NULL and (<Watcher>found).fresh:
                watcher = <Watcher>found
                try:
                    self.register(watcher)
                except OSError:
                    self.drop(watcher)
        return 0

    cdef int handle_arrivals(self) except -1:
        cdef uint64_t begun = fs_cycles()
        cdef int next = 0
        self.gathering = True
        try:
            while next < self.arrival_count:
                try:
                    self.handle_from(&next, &begun)
                except Exception:
                    self.drop_arrival(next)
                    next += 1
        finally:
            self.gathering = False
            self.send_gathered()
            if self.welcomed:
                self.register_welcomed()
            self.arrival_count = self.scratch_used = 0
        return 0

    cdef int handle_from(self, int* next, uint64_t* begun) except -1:
        # On an exception, `next` tells whose it is.
        cdef SocketTransport transport
        cdef PyObject* found
        cdef Arrival* arrival
        while next[0] < self.arrival_count:
            arrival = &self.arrivals[next[0]]
            found = self.find(arrival.key)
            if found != NULL:
                transport = <SocketTransport>found
                transport.protocol.receive(self.scratch + arrival.start, arrival.size)
                if arrival.size == READ_BYTES:
                    transport.read_later()
                if fs_cycles() - begun[0] > GATHER_CYCLES:
                    self.send_gathered()
                    begun[0] = fs_cycles()
            next[0] += 1
        return 0

    def drop_arrival(self, int index):
        cdef PyObject* found = self.find(self.arrivals[index].key)
        if found != NULL:
            self.drop(<Watcher>found)

    cdef int send_gathered(self) except -1:
        cdef int next = 0
        cdef PyObject* found
        while next < self.waiting_count:
            try:
                self.send_from(&next)
            except Exception:
                found = self.find(self.waiting[next])
                if found != NULL:
                    self.drop(<Watcher>found)
                next += 1
        self.waiting_count = 0
        self.gathered.size = 0
        return 0

    cdef int send_from(self, int* next) except -1:
        cdef SocketTransport transport
        cdef PyObject* found
        while next[0] < self.waiting_count:
            found = self.find(self.waiting[next[0]])
            if found != NULL:
                transport = <SocketTransport>found
                transport.send_gathered()
            next[0] += 1
        return 0

    cdef int drop(self, Watcher watcher) except -1:
        # A mistake of ours costs one connection, not the worker. (KeyboardInterrupt and
        # SystemExit leave through the loop, as from any callback.)
        self.report_mistake()
        if isinstance(watcher, SocketTransport):
            (<SocketTransport>watcher).abort()
        return 0

    def report_mistake(self):
        """Log the exception in hand, as far as a stranger may make the log grow."""
        if self.mistakes.allows():
            logger.exception(
                "unexpected error in a connection, which is dropped%s", self.mistakes.remark())

    cdef int doom(self, SocketTransport transport) except -1:
        self.doomed.append(transport)
        if not self.doom_scheduled:
            self.doom_scheduled = True
            self.loop.call_soon(self.bury)
        return 0

    def bury(self):
        """Tell the protocols of broken connections, outside of their own calls."""
        cdef SocketTransport transport
        self.doom_scheduled = False
        while self.doomed:
            transport = self.doomed.pop()
            transport.lose()


cdef class SocketTransport(Channel):
    """One connected, non-blocking socket; owns the descriptor."""

    cdef int set_mask(self) except -1:
        cdef uint32_t mask = EPOLLET
        if self.error is not None:
            return 0        # nobody watches it any more
        if self.reading:
            mask |= EPOLLIN | EPOLLRDHUP
        if self.output_stands():
            mask |= EPOLLOUT
        if self.poller.epoll_fd >= 0:
            mask |= self.mask       # taking it back would cost two calls, and keeping it none
        return self.poller.change(self, mask)

    cdef bint output_stands(self) noexcept:
        return self.backlog is not None or self.file >= 0 or self.writing_paused

    cdef int ready(self, uint32_t events) except -1:
        cdef Py_ssize_t size
        cdef char* room = self.poller.scratch + self.poller.scratch_used
        if events & EPOLLOUT and self.output_stands():
            self.go_on_sending()
            if self.fd < 0 or self.error is not None:
                return 0
        if self.reading and events & EPOLLIN:
            size = self.read(room, READ_BYTES)      # turn() sees to it that there is as much
            if size > 0:
                self.protocol.receive(room, size)
                if size == READ_BYTES or events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
                    return self.read_later()        # of the end behind it no event will tell
            return 0
        if events & (EPOLLERR | EPOLLHUP):
            # Both directions are gone; with reading paused, nobody would ever notice.
            return self.fail(ECONNRESET)
        if events & EPOLLIN:
            self.unread = True
        return 0

    cdef int limit_unsent(self, bint limited) except -1:
        if limited != self.limited and self.fd >= 0:
            self.limited = limited
            fs_limit_unsent(self.fd, UNSENT_BYTES if limited else 0)
        return 0

    cdef int read_into_room(self) except -1:
        # Without the way over the scratch: one copy less of a body that is kept.
        cdef Py_ssize_t asked = READ_BYTES
        cdef char* room = self.protocol.room(&asked)
        cdef Py_ssize_t size = self.read(room, asked)
        if size <= 0:
            return 0
        self.protocol.receive(room, size)
        if size == asked:
            return self.read_later()
        return 0

    cdef int read_arrived(self) except -1:
        return self.ready(EPOLLIN) if self.fd >= 0 and self.error is None else 0

    cdef int read_later(self) except -1:
        # There may be more: be told of it, or remember.
        if self.fd < 0 or self.error is not None:
            return 0
        if self.reading:
            return self.poller.rearm(self)
        self.unread = True
        return 0

    cdef Py_ssize_t read(self, char* data, Py_ssize_t size) except -2:
        cdef ssize_t count = recv(self.fd, data, size, 0)
        if count > 0:
            return count
        if count == 0:
            self.reading = False
            self.set_mask()
            if not self.protocol.eof_received():
                self.close()
        elif not try_again(c_errno):
            self.fail(c_errno)
        return -1

    cdef int write(self, const char* data, Py_ssize_t size) except -1:
        cdef Poller poller = self.poller
        if self.fd < 0 or self.error is not None:
            return 0
        if poller.gathering and size <= GATHERED_ANSWER and self.backlog is None and (
                poller.gathered.size < GATHERED_BYTES):
            if self.gathered_size == 0 and poller.waiting_count < EVENTS_PER_TURN:
                poller.waiting[poller.waiting_count] = event_key(self)
                poller.waiting_count += 1
                self.gathered_start = poller.gathered.size
                self.gathered_size = size
                return poller.gathered.append(data, size)
            if self.gathered_size and (
                    self.gathered_start + self.gathered_size == poller.gathered.size):
                self.gathered_size += size
                return poller.gathered.append(data, size)
        self.send_gathered()
        return self.send_now(data, size)

    cdef int send_gathered(self) except -1:
        cdef Py_ssize_t size = self.gathered_size
        if size == 0:
            return 0
        self.gathered_size = 0
        self.send_now(self.poller.gathered.data + self.gathered_start, size)
        if self.backlog is None:
            self.all_sent()
        return 0

    cdef int send_now(self, const char* data, Py_ssize_t size) except -1:
        cdef ssize_t count
        if self.fd < 0 or self.error is not None:
            return 0
        if self.backlog is not None:
            return self.keep(PyBytes_FromStringAndSize(data, size), 0)
        count = send(self.fd, data, size, MSG_NOSIGNAL)
        if count == size:
            return 0
        if count < 0:
            if not try_again(c_errno):
                return self.fail(c_errno)
            count = 0
        return self.keep(PyBytes_FromStringAndSize(data + count, size - count), 0)

    cdef int all_sent(self) except -1:
        # What waited for the output does no longer.
        if self.closing:
            return self.lose()
        if self.ending and self.fd >= 0:
            c_shutdown(self.fd, SHUT_WR)
        return 0

    cdef int write_pair(self, const char* data, Py_ssize_t size, bytes body) except -1:
        cdef ssize_t count
        cdef Py_ssize_t body_size = PyBytes_GET_SIZE(body)
        self.send_gathered()
        if self.fd < 0 or self.error is not None:
            return 0
        if self.backlog is not None:
            self.keep(PyBytes_FromStringAndSize(data, size), 0)
            return self.keep(body, 0)
        count = fs_send_pair(self.fd, data, size, PyBytes_AS_STRING(body), body_size)
        if count == size + body_size:
            return 0
        if count < 0:
            if not try_again(c_errno):
                return self.fail(c_errno)
            count = 0
        if count < size:
            self.keep(PyBytes_FromStringAndSize(data + count, size - count), 0)
            count = size
        return self.keep(body, count - size)

    cdef int keep(self, bytes data, Py_ssize_t offset) except -1:
        if self.backlog is None:
            self.backlog = []
            self.backlog_offset = offset
            self.backlog_size = -offset
            self.set_mask()
            self.protocol.output_waits()
        elif offset:
            data = data[offset:]
        self.backlog.append(data)
        self.backlog_size += PyBytes_GET_SIZE(data)
        if self.backlog_size > BACKLOG_HIGH and not self.writing_paused:
            self.writing_paused = True
            self.protocol.pause_writing()
        return 0

    cdef int flush_backlog(self) except -1:
        cdef bytes data
        cdef Py_ssize_t left
        cdef ssize_t count
        while self.backlog:
            data = self.backlog[0]
            left = PyBytes_GET_SIZE(data) - self.backlog_offset
            count = send(self.fd, PyBytes_AS_STRING(data) + self.backlog_offset, left, MSG_NOSIGNAL)
            if count < 0:
                if try_again(c_errno):
                    return 0
                return self.fail(c_errno)
            self.backlog_size -= count
            self.backlog_sent += count
            if count < left:
                self.backlog_offset += count
                break
            self.backlog_offset = 0
            del self.backlog[0]
        if not self.backlog:
            self.backlog = None
            self.set_mask()
            self.all_sent()
        return 0

    cdef int send_file(self, int file, int64_t offset, int64_t size) except -1:
        self.send_ahead()
        self.file = file
        self.file_at = offset
        self.file_left = size
        self.file_sent = 0
        if self.fd < 0:
            return 0
        if self.error is None and self.backlog is None:
            self.push_file()
            if self.file < 0 and self.error is None:
                if self.file_left:
                    raise EOFError("the file is shorter than it was")
                return 0
        if not self.writing_paused:
            self.writing_paused = True
            self.protocol.pause_writing()
        return 0

    cdef int stop_file(self) except -1:
        self.file = -1
        return Channel.stop_file(self)

    cdef int push_file(self) except -1:
        # What goes now of the file, as far as it is this connection's turn. `file` is -1 behind
        # its end, which may come before all of it is sent.
        cdef ssize_t count
        cdef Py_ssize_t piece = 0
        cdef int64_t turn_left = FILE_PER_TURN
        while self.file_left and turn_left > 0:
            piece = <Py_ssize_t>self.at_hand(
                self.poller.loop, self.file, self.file_at, min(self.file_left, turn_left))
            if piece == 0:
                self.warming = True
                return 0
            count = fs_sendfile(self.fd, self.file, self.file_at, piece)
            if count < 0 and (c_errno == EINVAL or c_errno == ENOSYS):
                piece = min(piece, <Py_ssize_t>COPIED_PIECE)
                count = self.copy_file(self.file, self.file_at, piece)
            if count < 0:
                if not try_again(c_errno):
                    return self.fail(c_errno)
                break
            if count == 0:
                self.file = -1
                return 0
            self.file_at += count
            self.file_left -= count
            self.file_sent += count
            self.backlog_sent += count
            turn_left -= count
            if count < piece:
                break
        if self.file_left == 0:
            self.file = -1
        elif not self.mask & EPOLLOUT:
            return self.set_mask()
        elif count >= 0:
            return self.poller.rearm(self)  # there may be room: only EAGAIN says that there is none
        return 0

    def copy_file(self, int file, int64_t offset, Py_ssize_t size):
        # For a file system without sendfile.
        cdef ssize_t count
        cdef bytes data = PyBytes_FromStringAndSize(NULL, min(size, <Py_ssize_t>COPIED_PIECE))
        count = c_pread(file, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), offset)
        if count > 0:
            count = send(self.fd, PyBytes_AS_STRING(data), count, MSG_NOSIGNAL)
        return count

    cdef int send_ahead(self) except -1:
        # What waits for the end of the turn goes first; the file follows in the same segment.
        cdef Py_ssize_t size = self.gathered_size
        cdef const char* data = self.poller.gathered.data + self.gathered_start
        cdef ssize_t count
        if size == 0 or self.backlog is not None or self.error is not None:
            return self.send_gathered()
        self.gathered_size = 0
        count = send(self.fd, data, size, MSG_NOSIGNAL | MSG_MORE)
        if count < 0:
            if not try_again(c_errno):
                return self.fail(c_errno)
            count = 0
        if count < size:
            return self.keep(PyBytes_FromStringAndSize(data + count, size - count), 0)
        return 0

    cdef int go_on_sending(self) except -1:
        if self.backlog is not None:
            self.flush_backlog()
        if self.fd < 0 or self.error is not None or self.warming:
            return 0
        if self.backlog is None and self.file >= 0:
            self.push_file()
        if self.writing_paused and self.file < 0 and self.error is None and (
                self.backlog_size <= BACKLOG_LOW):
            self.writing_paused = False
            self.set_mask()
            self.protocol.resume_writing()
        return 0

    cdef int warm(self) except -1:
        self.warming = False
        if self.fd >= 0 and self.error is None:
            self.go_on_sending()
        return 0

    cdef int pause_reading(self) except -1:
        self.reading = False
        return self.set_mask()

    cdef int resume_reading(self) except -1:
        if self.closing or self.error is not None:
            return 0
        self.reading = True
        if self.unread:
            self.unread = False
            if self.mask & EPOLLIN:
                return self.poller.rearm(self)
        return self.set_mask()

    cdef int shutdown_output(self) except -1:
        if self.fd >= 0 and not self.ending:
            self.ending = True
            if self.backlog is None and self.gathered_size == 0:
                c_shutdown(self.fd, SHUT_WR)
        return 0

    cdef int close(self) except -1:
        if self.backlog is None and self.gathered_size == 0:
            return self.lose()
        self.closing = True
        self.reading = False
        return self.set_mask()

    cdef int abort(self) except -1:
        return self.lose()

    cdef int reset(self) except -1:
        if self.fd >= 0:
            view = socket.socket(fileno=self.fd)
            try:
                view.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            finally:
                view.detach()
        return self.lose()

    cdef int fail(self, int code) except -1:
        # The protocol may be in the middle of something: tell it afterwards.
        if self.error is None:
            self.error = OSError(code, os.strerror(code))
            self.reading = False
            self.file = -1
            self.backlog = None
            self.backlog_size = self.gathered_size = 0
            self.poller.forget(self)
            self.poller.doom(self)
        return 0

    cdef int lose(self) except -1:
        cdef Protocol protocol = self.protocol
        if self.fd < 0:
            return 0
        self.poller.forget(self)
        c_close(self.fd)
        self.fd = self.file = -1
        self.backlog = None
        self.gathered_size = 0
        self.protocol = None
        protocol.connection_lost(self.error)
        return 0

    cdef int64_t unsent(self) except -1:
        return 1 if self.writing_paused else self.backlog_size if self.backlog is not None else 0

    cdef int64_t flushed(self) except -1:
        return self.backlog_sent

    cdef object peer(self):
        if self.address is None and self.fd >= 0:
            view = socket.socket(fileno=self.fd)
            try:
                self.address = view.getpeername()
            except OSError:
                return None     # gone already
            finally:
                view.detach()
        return self.address


cdef SocketTransport new_transport(Poller poller, int fd, Protocol protocol):
    cdef SocketTransport transport = SocketTransport.__new__(SocketTransport)
    transport.fd = fd
    transport.file = -1
    transport.poller = poller
    transport.reading = True
    transport.protocol = protocol
    return transport


cdef SocketTransport open_transport(Poller poller, int fd, Protocol protocol):
    cdef SocketTransport transport = new_transport(poller, fd, protocol)
    try:
        protocol.connected(transport)
        poller.watch(transport, EPOLLIN | EPOLLRDHUP | EPOLLET)
    except BaseException:
        transport.lose()    # nobody would ever read from it
        raise
    return transport


cdef SocketTransport welcome_transport(Poller poller, int fd, Protocol protocol):
    cdef SocketTransport transport = new_transport(poller, fd, protocol)
    try:
        protocol.connected(transport)
        poller.enter(transport, EPOLLIN | EPOLLRDHUP | EPOLLET)
        poller.welcome(transport)
    except BaseException:
        transport.lose()
        raise
    return transport
