# Who comes in: the listening sockets of a worker, and how many connections it holds.
#
# Whatever accept4() says, accepting goes on: an error of one queued connection leads to the
# next, any other lets the listener rest while the kernel keeps its queue. At the limit of
# connections either nothing is accepted until enough have left, or the surplus is answered
# with bytes made before. Nothing in here waits, and a stranger cannot make the log grow.

from fastserve._speedups.channel cimport LogRation, Watcher
from fastserve._speedups.transport cimport Poller

cdef class Admission:
    cdef Poller poller
    cdef list acceptors
    cdef readonly Py_ssize_t limit  # connections over any transport; 0: as many as come
    cdef Py_ssize_t enough          # after the limit was met, accepting begins again here
    cdef bytes refusal              # what the surplus is told; None: it waits in the queue
    cdef list leaving               # Refused, oldest first
    cdef readonly Py_ssize_t refused    # of the surplus, in all
    cdef bint full
    cdef int resting                # acceptors that rest
    cdef bint waits                 # departed() has something to do
    cdef LogRation complaints, notices
    cdef int departed(self) except -1           # to be called behind each end if `waits`
    cdef bint is_full(self) except -1
    cdef int refuse(self, int fd) except -1
    cdef int set_waits(self) except -1

cdef class Acceptor(Watcher):
    # Accepts the connections of one listening socket, which stays its caller's.
    cdef Admission admission
    cdef object listener
    cdef object accepted            # None, or who takes the accepted sockets instead
    cdef bint rests
    cdef object retry               # the timer that ends the rest, at the latest
    cdef int accept_some(self, int limit) except -1
    cdef int admit(self, int fd) except -1
    cdef int open_raw(self, int fd) except -1
    cdef int rest(self, int code) except -1
    cdef int go_on(self) except -1

cdef class Refused(Watcher):
    # One of the surplus that may still be sending: what it says is thrown away until it has
    # read its answer and closes, or others need the place.
    cdef Admission admission
    cdef Py_ssize_t room            # bytes it may still send
    cdef int close(self) except -1
