# Accepting connections: see acceptor.pxd for the contract.

import logging
import os
import socket

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t

from fastserve._speedups.channel cimport LogRation, Protocol, Watcher
from fastserve._speedups.system cimport (
    EPOLLIN, EPOLLRDHUP, MSG_NOSIGNAL, SHUT_WR, c_close, c_errno, c_shutdown, fs_accept,
    fs_next_may_do, recv, send, try_again)
from fastserve._speedups.transport cimport Poller, welcome_transport

cdef enum:
    ACCEPTS_PER_TURN = 64
    WHOLE_QUEUE = 0x7FFFFFFF
    REFUSED_KEPT = 16               # descriptors of the surplus, out of the reserve
    REFUSED_BYTES = 256 * 1024      # read of each of them
    REFUSED_READ = 4096             # at a time

cdef double REST_S = 0.5
cdef double LOG_PERIOD_S = 10

logger = logging.getLogger("fastserve.error")


cdef class Admission:
    """The acceptors of one worker and the limit that they share.

    limit:    how many connections may be open at once, over any transport; 0 for any number
    refusal:  what the surplus is answered; None leaves it in the kernel's queue
    """

    def __init__(self, Poller poller, Py_ssize_t limit=0, bytes refusal=None):
        self.poller = poller
        self.limit = limit
        self.enough = min(limit - 1, limit * 95 // 100)
        self.refusal = refusal
        self.acceptors = []
        self.leaving = []
        self.complaints = LogRation(1, LOG_PERIOD_S)
        self.notices = LogRation(1, LOG_PERIOD_S)

    def listen(self, listener, accepted=None):
        """Accept from a listening, non-blocking socket.

        accepted:  called with each new socket object, instead of the raw transport
        """
        cdef Acceptor acceptor = Acceptor.__new__(Acceptor)
        acceptor.admission = self
        acceptor.listener = listener
        acceptor.accepted = accepted
        acceptor.fd = listener.fileno()
        self.poller.watch(acceptor, EPOLLIN)
        self.acceptors.append(acceptor)
        if self.full and self.refusal is None:
            self.poller.change(acceptor, 0)

    def leave(self, listener):
        """Accept what is queued at one listener, then leave it alone."""
        cdef Acceptor acceptor
        for acceptor in self.acceptors:
            if acceptor.listener is listener:
                self.acceptors.remove(acceptor)
                acceptor.stop()
                break

    def stop(self):
        """Accept what is queued, as far as the limit goes; then leave the listeners alone."""
        while self.acceptors:
            (<Acceptor>self.acceptors.pop()).stop()

    def close(self):
        """Stop, and drop those that were refused."""
        self.stop()
        while self.leaving:
            (<Refused>self.leaving[0]).close()

    cdef bint is_full(self) except -1:
        cdef Acceptor acceptor
        if self.limit == 0 or self.full:
            return self.full
        if self.poller.factory.connection_count() < self.limit:
            return False
        self.full = True
        if self.notices.allows():
            logger.warning(
                "%d connections are open, the limit: new ones %s%s", self.limit,
                "wait in the queue" if self.refusal is None else "are refused",
                self.notices.remark())
        if self.refusal is None:
            for acceptor in self.acceptors:
                self.poller.change(acceptor, 0)
        self.set_waits()
        return True

    cdef int departed(self) except -1:
        cdef Acceptor acceptor
        if self.full and self.poller.factory.connection_count() <= self.enough:
            self.full = False
        for acceptor in self.acceptors:
            acceptor.go_on()    # its descriptor may be what the others lacked
        return self.set_waits()

    cdef int set_waits(self) except -1:
        self.waits = self.full or self.resting > 0
        return 0

    cdef int refuse(self, int fd) except -1:
        cdef Refused refused
        self.refused += 1
        if send(fd, PyBytes_AS_STRING(self.refusal), PyBytes_GET_SIZE(self.refusal),
                MSG_NOSIGNAL) < 0 or c_shutdown(fd, SHUT_WR) < 0:
            c_close(fd)
            return 0
        if len(self.leaving) >= REFUSED_KEPT:
            (<Refused>self.leaving[0]).close()
        refused = Refused.__new__(Refused)
        refused.fd = fd
        refused.admission = self
        refused.room = REFUSED_BYTES
        self.leaving.append(refused)
        try:
            self.poller.watch(refused, EPOLLIN | EPOLLRDHUP)
        except OSError:
            refused.close()
        return 0


cdef class Acceptor(Watcher):
    cdef int ready(self, uint32_t events) except -1:
        return self.accept_some(ACCEPTS_PER_TURN)

    cdef int accept_some(self, int limit) except -1:
        cdef Admission admission = self.admission
        cdef int fd, failures = 0
        cdef bint full
        while limit > 0 and self.fd >= 0 and not self.rests:
            limit -= 1
            full = admission.is_full()
            if full and admission.refusal is None:
                return 0
            fd = fs_accept(self.fd)
            if fd < 0:
                if try_again(c_errno):
                    return 0
                failures += 1
                if not fs_next_may_do(c_errno) or failures == ACCEPTS_PER_TURN:
                    return self.rest(c_errno)
            elif not full:
                self.admit(fd)
            elif self.accepted is None:
                admission.refuse(fd)
            else:
                c_close(fd)     # in TLS, plain bytes would say nothing
        return 0

    cdef int admit(self, int fd) except -1:
        try:
            if self.accepted is None:
                self.open_raw(fd)
            else:
                self.hand_over(fd)
        except OSError as error:
            self.rest(error.errno or 0)
        except Exception:
            self.admission.poller.report_mistake()
        return 0

    def hand_over(self, int fd):
        """Give the connection away as a socket object."""
        sock = socket.socket(fileno=fd)
        try:
            self.accepted(sock)
        except BaseException:
            sock.close()
            raise

    cdef int open_raw(self, int fd) except -1:
        cdef Poller poller = self.admission.poller
        cdef Protocol protocol
        try:
            protocol = poller.factory.make()
        except BaseException:
            c_close(fd)
            raise
        welcome_transport(poller, fd, protocol)
        return 0

    cdef int rest(self, int code) except -1:
        # Out of descriptors or memory, most likely. The queue is the kernel's for a moment;
        # with the listener still watched, epoll would tell of it again and again.
        cdef Admission admission = self.admission
        if admission.complaints.allows():
            logger.error("cannot accept connections: %s; they wait%s", os.strerror(code),
                         admission.complaints.remark())
        if not self.rests:
            self.rests = True
            admission.resting += 1
            admission.set_waits()
            admission.poller.change(self, 0)
        if self.retry is None:
            self.retry = admission.poller.loop.call_later(REST_S, self.end_rest)
        return 0

    def end_rest(self):
        """The timer's: try again, whether anything has changed or not."""
        self.retry = None
        self.go_on()
        self.admission.set_waits()

    cdef int go_on(self) except -1:
        if self.rests:
            self.rests = False
            self.admission.resting -= 1
        if self.fd >= 0 and not (self.admission.full and self.admission.refusal is None):
            self.admission.poller.change(self, EPOLLIN)
        return 0

    def stop(self):
        """Accept what is queued, then leave the listener alone."""
        if self.fd < 0:
            return
        self.accept_some(WHOLE_QUEUE)
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        if self.rests:
            self.rests = False
            self.admission.resting -= 1
        self.admission.poller.forget(self)
        self.fd = -1


cdef class Refused(Watcher):
    cdef int ready(self, uint32_t events) except -1:
        cdef char ignored[REFUSED_READ]
        cdef ssize_t count = recv(self.fd, ignored, REFUSED_READ, 0)
        if count < 0 and try_again(c_errno):
            return 0
        self.room -= count
        if count <= 0 or self.room <= 0:
            return self.close()
        return 0

    cdef int close(self) except -1:
        if self.fd >= 0:
            self.admission.poller.forget(self)
            c_close(self.fd)
            self.fd = -1
            self.admission.leaving.remove(self)
        return 0
