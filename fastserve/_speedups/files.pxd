# Files as responses: opened without a way out of their directory, read without waiting for a
# disk, and answered by what the request asks of them.
#
# Whatever takes `cached` raises BlockingIOError instead of waiting; the caller then asks again
# on a thread, without it. Nothing else here may be called on another thread.

from libc.stdint cimport int64_t, uint64_t

from fastserve._speedups.conditions cimport Conditions
from fastserve._speedups.messages cimport Request
from fastserve._speedups.responses cimport Response

cpdef enum:
    READ_BYTES = 64 * 1024          # a file up to this size is read, and sent with its head
    KEPT_BYTES = 128 * 1024         # up to this one also where its content is kept for a second

cdef class OpenFile:
    # A file or directory that is open; closed by release(), or with the object.
    cdef readonly int fd            # -1 once closed
    cdef readonly int64_t size, mtime_ns, ctime_ns
    cdef readonly uint64_t device, inode
    cdef readonly bint is_file, is_directory

cdef class Root:
    # A directory whose files may be opened, and nothing outside of it.
    cdef readonly str directory
    cdef bint symlinks              # those inside that lead inside are followed
    cdef bint use_openat2, use_cached
    cdef OpenFile opened
    cdef double opened_s            # when: a directory that was replaced is noticed

    cpdef OpenFile open(self, bytes name, bint cached)
    cdef OpenFile beneath(self, OpenFile top, bytes name, bint cached)

cdef class Representation:
    # One file as it is sent: its validators and its rendered fields, maybe its content.
    cdef readonly bytes name        # beneath the root; None for a file that is not in one
    cdef readonly bytes etag
    cdef readonly bytes coding      # of the content: b"gzip"; b"" for none
    cdef readonly int64_t size, modified_s
    cdef readonly bytes content     # None: too large to keep
    cdef int64_t mtime_ns, ctime_ns
    cdef uint64_t device, inode
    cdef bytes media_type
    cdef bytes last_modified
    cdef list fields, fields_304    # (name, value) each
    cdef int status

    cdef bint is_still(self, OpenFile file)
    cdef int quick(self, Conditions conditions) except -1
    cdef Response whole(self, OpenFile file)
    cdef Response unchanged(self)
    cdef Response part(self, int64_t offset, int64_t size, OpenFile file)
    cdef Response parts(self, list ranges, OpenFile file)
    cdef Response dressed(self, Response response, int status, list fields, bytes media_type)

cdef class Entry:
    # What a path means for the moment: the file, and its siblings in other codings.
    cdef Representation plain
    cdef list coded
    cdef dict chosen                # by the value of Accept-Encoding
    cdef double expires_s
    cdef Py_ssize_t weight          # bytes of content

    cdef Representation choose(self, bytes accept_encoding)

cdef class Shelf:
    # The entries of one directory by raw path: a second old at most, and bounded.
    cdef Root root
    cdef dict entries
    cdef Py_ssize_t weight
    cdef object look, clock

    cdef object answer(self, Request request)
    cdef object answer_entry(self, Entry entry, Request request, OpenFile file)
    cdef double now_s(self)
    cdef Entry find(self, bytes key)
    cdef int drop(self, bytes key) except -1
