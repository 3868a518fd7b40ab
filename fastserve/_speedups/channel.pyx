# What moves the bytes of a connection, and the way over the event loop: see channel.pxd.
#
# sendfile() and reading a file would wait for the disk: they are only asked for what is in
# memory, and a thread reads what is not.

import asyncio
import os
import time

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc

from fastserve._speedups.system cimport (
    EPOLLIN, EPOLLOUT, c_close, c_errno, c_pread, fs_resident)


cdef class LogRation:
    def __cinit__(self, int lines, double period_s):
        self.lines = lines
        self.period_s = period_s

    cdef bint allows(self) except -1:
        cdef double now = time.monotonic()
        if self.written == 0 or now - self.since >= self.period_s:
            self.since = now
            self.written = 0
        if self.written == self.lines:
            self.left_out += 1
            return False
        self.written += 1
        return True

    cdef str remark(self):
        cdef Py_ssize_t count = self.left_out
        self.left_out = 0
        return f" ({count} more since the last such line)" if count else ""


cdef class Protocol:
    cdef int connected(self, Channel channel) except -1:
        return 0

    cdef int receive(self, const char* data, Py_ssize_t size) except -1:
        return 0

    cdef bint has_room(self):
        return False

    cdef char* room(self, Py_ssize_t* size) except NULL:
        raise NotImplementedError

    cpdef eof_received(self):
        return None

    cpdef connection_lost(self, error):
        pass

    cpdef pause_writing(self):
        pass

    cpdef resume_writing(self):
        pass

    cdef int output_waits(self) except -1:
        return 0


cdef class ProtocolFactory:
    cdef Protocol make(self):
        raise NotImplementedError

    cdef Py_ssize_t connection_count(self) except -1:
        raise NotImplementedError

    cdef int begin_turn(self) except -1:
        return 0

    cdef int end_turn(self) except -1:
        return 0


cdef class Watcher:
    def __cinit__(self):
        self.fd = -1

    cdef int ready(self, uint32_t events) except -1:
        raise NotImplementedError

    def on_readable(self):
        """The callback for loop.add_reader, where there is no epoll."""
        self.ready(EPOLLIN)

    def on_writable(self):
        """The callback for loop.add_writer, where there is no epoll."""
        self.ready(EPOLLOUT)


cdef class Descriptor:
    # A file's number of our own, closed with the object.
    cdef int fd

    def __cinit__(self, int fd):
        self.fd = os.dup(fd)

    def __dealloc__(self):
        if self.fd >= 0:
            c_close(self.fd)


def read_through(Descriptor file, int64_t offset, int64_t size):
    """Read a part of a file, for the kernel to keep it in memory; on a thread."""
    cdef char* room = <char*>malloc(COPIED_PIECE)
    cdef int64_t end = offset + size
    cdef ssize_t count = 1
    if room == NULL:
        raise MemoryError
    with nogil:
        while count > 0 and offset < end:
            count = c_pread(file.fd, room, <size_t>min(<int64_t>COPIED_PIECE, end - offset), offset)
            offset += count
    free(room)


cdef class Channel(Watcher):
    cdef int64_t at_hand(self, object loop, int file, int64_t offset, int64_t size) except -1:
        # Asking the kernel costs as much as sending a tenth: once for each FILE_PER_TURN.
        if not self.warm_start <= offset < self.warm_end:
            self.warm_start = offset
            self.warm_end = offset + min(size, <int64_t>FILE_PER_TURN)
            if fs_resident(file, offset, self.warm_end - offset) != 1 and (
                    self.begin_reading(loop, file)):
                return 0
        return min(size, self.warm_end - offset)

    cdef bint begin_reading(self, object loop, int file) except -1:
        try:
            reading = loop.run_in_executor(
                None, read_through, Descriptor(file), self.warm_start,
                self.warm_end - self.warm_start)
        except (RuntimeError, OSError):
            return False    # no thread and no number to be had: the loop waits for the disk
        reading.add_done_callback(self.on_warm)
        return True

    def on_warm(self, reading):
        if not reading.cancelled():
            reading.exception()     # what cannot be read, sending will tell
        self.warm()

    cdef int warm(self) except -1:
        raise NotImplementedError

    cdef int write(self, const char* data, Py_ssize_t size) except -1:
        raise NotImplementedError

    cdef int write_pair(self, const char* data, Py_ssize_t size, bytes body) except -1:
        raise NotImplementedError

    cdef int send_file(self, int file, int64_t offset, int64_t size) except -1:
        raise NotImplementedError

    cdef int stop_file(self) except -1:
        self.warm_end = 0       # of another file nothing is known
        return 0

    cdef int pause_reading(self) except -1:
        raise NotImplementedError

    cdef int resume_reading(self) except -1:
        raise NotImplementedError

    cdef int shutdown_output(self) except -1:
        raise NotImplementedError

    cdef int close(self) except -1:
        raise NotImplementedError

    cdef int limit_unsent(self, bint limited) except -1:
        return 0

    cdef int read_arrived(self) except -1:
        return 0        # a transport of the loop reads when it likes

    cdef int abort(self) except -1:
        raise NotImplementedError

    cdef int reset(self) except -1:
        return self.abort()

    cdef int64_t unsent(self) except -1:
        raise NotImplementedError

    cdef int64_t flushed(self) except -1:
        raise NotImplementedError

    cdef object peer(self):
        return None

    cdef bint encrypted(self):
        return False

    cdef object tls(self):
        return None


cdef object extra_info(object transport, str name):
    try:
        return transport.get_extra_info(name)
    except AttributeError:
        return None     # what asyncio's TLS transports raise once they were aborted


cdef class LoopChannel(Channel):
    """A channel over an asyncio transport."""

    def __init__(self, transport):
        self.transport = transport
        # uvloop's low mark is 16 bytes by default; a response would trickle.
        set_limits = getattr(transport, "set_write_buffer_limits", None)
        if set_limits is not None:
            set_limits(BACKLOG_HIGH, BACKLOG_LOW)

    cdef int write(self, const char* data, Py_ssize_t size) except -1:
        self.written += size
        self.transport.write(PyBytes_FromStringAndSize(data, size))
        return 0

    cdef int write_pair(self, const char* data, Py_ssize_t size, bytes body) except -1:
        self.written += size + PyBytes_GET_SIZE(body)
        # Not writelines(): up to CPython 3.12.3 asyncio's never pauses the protocol.
        self.transport.write(PyBytes_FromStringAndSize(data, size) + body)
        return 0

    cdef int send_file(self, int file, int64_t offset, int64_t size) except -1:
        # Through our memory: a TLS layer has to see the bytes, and no loop has a sendfile.
        cdef Py_ssize_t piece
        cdef ssize_t count
        cdef bytes data
        waiting = getattr(self.transport, "get_write_buffer_size", None)
        self.file_sent = 0
        while self.file_sent < size:
            if self.transport.is_closing():
                return 0
            if self.file_sent >= FILE_PER_TURN:
                self.hold()
                asyncio.get_running_loop().call_soon(self.unhold)
                return 0
            piece = <Py_ssize_t>self.at_hand(
                asyncio.get_running_loop(), file, offset + self.file_sent, size - self.file_sent)
            if piece == 0:
                return self.hold()
            piece = min(piece, <Py_ssize_t>COPIED_PIECE)
            data = PyBytes_FromStringAndSize(NULL, piece)
            count = c_pread(file, PyBytes_AS_STRING(data), piece, offset + self.file_sent)
            if count < 0:
                raise OSError(c_errno, os.strerror(c_errno))
            if count == 0:
                raise EOFError("the file is shorter than it was")
            self.written += count
            self.transport.write(data if count == piece else data[:count])
            self.file_sent += count
            # Over its high-water mark the transport has paused the protocol by itself.
            if waiting is not None and waiting() > BACKLOG_HIGH:
                return 0
        return 0

    cdef int hold(self) except -1:
        self.held = True
        self.transport.get_protocol().pause_writing()
        return 0

    def unhold(self):
        if self.held and not self.transport.is_closing():
            self.held = False
            self.transport.get_protocol().resume_writing()

    cdef int warm(self) except -1:
        self.unhold()
        return 0

    cdef int pause_reading(self) except -1:
        self.transport.pause_reading()
        return 0

    cdef int resume_reading(self) except -1:
        self.transport.resume_reading()
        return 0

    cdef int shutdown_output(self) except -1:
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
        return 0

    cdef int close(self) except -1:
        self.transport.close()
        return 0

    cdef int abort(self) except -1:
        self.transport.abort()
        return 0

    cdef int64_t unsent(self) except -1:
        return self.transport.get_write_buffer_size()

    cdef int64_t flushed(self) except -1:
        # The size alone may be the same whenever somebody looks: TLS fills up to one it likes.
        return self.written - self.transport.get_write_buffer_size()

    cdef object peer(self):
        return extra_info(self.transport, "peername")

    cdef bint encrypted(self):
        return extra_info(self.transport, "sslcontext") is not None

    cdef object tls(self):
        return extra_info(self.transport, "ssl_object")
