# Files as responses: see files.pxd for the contract.
#
# The way out of a directory is shut by the kernel, openat2(2) with RESOLVE_BENEATH, where it
# has that; elsewhere by walking down component by component without following a link, and
# taking each link apart ourselves. Either way a race with a rename ends beneath or nowhere.

import errno
import os
import time

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINVAL, ENOSYS, EOPNOTSUPP, EPERM
from libc.stdint cimport int64_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fastserve._speedups.conditions cimport (
    Conditions, precondition, read_conditions, selected_ranges, coding_weight)
from fastserve._speedups.dates cimport DATE_BYTES, put_date
from fastserve._speedups.messages cimport Request
from fastserve._speedups.responses cimport FileSpan, PartsResponse, Response
from fastserve._speedups.multidict cimport MutableHeaders
from fastserve._speedups.head cimport METHOD_GET, METHOD_HEAD
from fastserve._speedups.system cimport (
    AT_FDCWD, O_CLOEXEC, O_DIRECTORY, O_NOCTTY, O_NONBLOCK, O_PATH, O_RDONLY, RESOLVE_BENEATH,
    RESOLVE_CACHED, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, S_IFDIR, S_IFREG, c_close,
    c_errno, c_pread, fs_openat2, fs_read_cached, fs_resident, fs_stat_open, fs_status)

from fastserve.errors import HTTPError

cdef enum:
    MAX_ENTRIES = 1024              # of one shelf
    MAX_WEIGHT = 16 * 1024 * 1024   # bytes of content of one shelf
    MAX_CHOICES = 16                # values of Accept-Encoding remembered per entry
    MAX_LINKS = 40                  # as the kernel's
    RETRIES = 16                    # of an openat2 that a rename raced with

cdef double FRESH_S = 1.0           # how long an entry is believed
cdef int64_t SECOND_NS = 1_000_000_000
cdef int READ_FLAGS = O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK   # a FIFO must not block
cdef int DIRECTORY_FLAGS = O_PATH | O_DIRECTORY | O_CLOEXEC


cdef double monotonic_s() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


cdef object os_error(int code, object name):
    return OSError(code, os.strerror(code), os.fsdecode(name))    # BlockingIOError for EAGAIN


cdef class OpenFile:
    """An open file or directory; close it with release()."""

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        if self.fd >= 0:
            c_close(self.fd)

    def release(self):
        """Close it; a second time does nothing."""
        if self.fd >= 0:
            c_close(self.fd)
            self.fd = -1


cdef OpenFile take(int fd, object name):
    # Owns `fd` from here on.
    cdef OpenFile file = OpenFile.__new__(OpenFile)
    cdef fs_status found
    file.fd = fd
    if fs_stat_open(fd, &found) < 0:
        raise os_error(c_errno, name)
    file.size = found.size
    file.mtime_ns = found.mtime_ns
    file.ctime_ns = found.ctime_ns
    file.device = found.device
    file.inode = found.inode
    file.is_file = found.kind == S_IFREG
    file.is_directory = found.kind == S_IFDIR
    return file


cdef OpenFile open_anywhere(bytes path, int flags, bint cached):
    cdef int fd
    if cached:
        fd = fs_openat2(AT_FDCWD, path, flags, RESOLVE_CACHED)
        if fd < 0 and (c_errno == ENOSYS or c_errno == EINVAL or c_errno == EPERM):
            raise os_error(EAGAIN, path)    # cannot be told: let a thread see
        if fd < 0:
            raise os_error(c_errno, path)
        return take(fd, path)
    return take(os.open(path, flags), path)


def open_file(bytes path, bint cached):
    """Open any file of the machine for reading.

    cached:  raise BlockingIOError where the names on its path are not in memory
    Raises OSError as open() does; IsADirectoryError and the like are the caller's to find.
    """
    if b"\0" in path:
        raise os_error(EINVAL, path.replace(b"\0", b"?"))
    return open_anywhere(path, READ_FLAGS, cached)


def read_file(OpenFile file not None, bint cached):
    """All of an open file as bytes, as many as it had when it was opened.

    cached:  raise BlockingIOError where some of it is not in memory
    Raises EOFError where it has become shorter.
    """
    cdef bytes content = PyBytes_FromStringAndSize(NULL, file.size)
    cdef char* data = PyBytes_AS_STRING(content)
    cdef int64_t done = 0
    cdef ssize_t count
    while done < file.size:
        if cached:
            count = fs_read_cached(file.fd, data + done, file.size - done, done)
            if count < 0 and c_errno == EOPNOTSUPP and (
                    fs_resident(file.fd, done, file.size - done) == 1):
                count = c_pread(file.fd, data + done, file.size - done, done)
            elif count < 0 and (c_errno == EOPNOTSUPP or c_errno == ENOSYS):
                raise os_error(EAGAIN, b"")
        else:
            count = c_pread(file.fd, data + done, file.size - done, done)
        if count < 0:
            raise os_error(c_errno, b"")
        if count == 0:
            raise EOFError("the file is shorter than it was")
        done += count
    return content


cdef class Root:
    """A directory out of which no name leads.

    symlinks:     follow those that stay beneath; without it a link is not there
    use_openat2:  False to walk component by component, as where the kernel has no openat2
    Raises OSError where the directory cannot be opened.
    """

    def __init__(self, str directory, *, bint symlinks=True, bint use_openat2=True):
        cdef int fd
        self.directory = os.path.abspath(directory)
        self.symlinks = symlinks
        self.reopen(False)
        if use_openat2:
            fd = fs_openat2(self.opened.fd, b".", DIRECTORY_FLAGS, RESOLVE_BENEATH)
            self.use_openat2 = fd >= 0
            if fd >= 0:
                c_close(fd)
                fd = fs_openat2(self.opened.fd, b".", DIRECTORY_FLAGS, RESOLVE_CACHED)
                self.use_cached = fd >= 0 or c_errno != EINVAL
                if fd >= 0:
                    c_close(fd)

    def reopen(self, bint cached):
        # Those who still walk through the old one hold it open.
        self.opened = open_anywhere(os.fsencode(self.directory), DIRECTORY_FLAGS, cached)
        self.opened_s = monotonic_s()

    cpdef OpenFile open(self, bytes name, bint cached):
        """Open what is called `name` beneath the root; b"" is the root itself.

        Raises OSError: BlockingIOError where `cached` and something is not in memory, others
        for what is not there or leads out.
        """
        cdef OpenFile top
        if b"\0" in name or name.startswith(b"/"):
            raise os_error(errno.ENOENT, name.replace(b"\0", b"?"))
        if cached and not self.use_cached:
            raise os_error(EAGAIN, name)
        if monotonic_s() - self.opened_s >= FRESH_S:
            self.reopen(cached)
        top = self.opened
        if self.use_openat2:
            return self.beneath(top, name or b".", cached)
        return take(walk(top.fd, name, self.symlinks), name)

    cdef OpenFile beneath(self, OpenFile top, bytes name, bint cached):
        cdef uint64_t resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
        cdef int fd, attempt
        if not self.symlinks:
            resolve |= RESOLVE_NO_SYMLINKS
        if cached:
            resolve |= RESOLVE_CACHED
        for attempt in range(RETRIES):
            fd = fs_openat2(top.fd, name, READ_FLAGS, resolve)
            if fd >= 0:
                return take(fd, name)
            if c_errno != EAGAIN or cached:
                raise os_error(c_errno, name)
        raise os_error(errno.ENOENT, name)      # always in the middle of a rename


def walk(int top, bytes name, bint symlinks):
    """Open a name beneath the directory `top`, one component at a time; returns the descriptor.

    No component is followed by the kernel. A link is read and its target put in front of what
    is left of the name; ".." goes back to the directory that was walked through, and never
    above `top`.
    """
    cdef int links = 0
    trail = [os.dup(top)]
    left = name.split(b"/")[::-1]
    try:
        while True:
            part = left.pop()
            if part in (b"", b"."):
                if not left:
                    return os.open(b".", READ_FLAGS | os.O_NOFOLLOW, dir_fd=trail[-1])
                continue
            if part == b"..":
                if len(trail) == 1:
                    raise os_error(errno.EXDEV, name)
                os.close(trail.pop())
                if not left:
                    return os.open(b".", READ_FLAGS | os.O_NOFOLLOW, dir_fd=trail[-1])
                continue
            target = link_target(part, trail[-1])
            if target is None:
                if not left:
                    return os.open(part, READ_FLAGS | os.O_NOFOLLOW, dir_fd=trail[-1])
                trail.append(os.open(part, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=trail[-1]))
                continue
            links += 1
            if not symlinks or links > MAX_LINKS:
                raise os_error(errno.ELOOP, name)
            if target.startswith(b"/"):
                raise os_error(errno.EXDEV, name)
            left += target.split(b"/")[::-1]
    finally:
        for fd in trail:
            os.close(fd)


def link_target(bytes name, int directory):
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno == EINVAL:       # no link
            return None
        raise


cdef bytes entity_tag(OpenFile file, bytes coding, int64_t now_ns):
    # Weak within the second of its last change: then it may change again and look the same
    # (RFC 9110 section 8.8.1).
    cdef bint weak = now_ns - file.mtime_ns < SECOND_NS
    suffix = b"-" + coding if coding else b""
    return b'%b"%x-%x%b"' % (b"W/" if weak else b"", file.mtime_ns, file.size, suffix)


cdef tuple KEPT_OF_304 = (
    b"content-type", b"content-encoding", b"content-disposition", b"content-language",
    b"content-length", b"content-range", b"last-modified", b"accept-ranges")


cdef class Representation:
    """One file as it is sent.

    file:        the file; what is kept of it are its numbers
    media_type:  as bytes
    headers:     MutableHeaders that are sent with it; they win over those made here
    content:     all of it, or None to send it from the file
    now_s:       the time of day, in seconds since the epoch
    status:      200 takes part in conditions and ranges; anything else is sent as it is
    """

    def __init__(self, OpenFile file not None, bytes media_type not None,
                 MutableHeaders headers not None, *, bytes name=None, bytes coding=b"",
                 bytes content=None, double now_s=0, int status=200):
        cdef int64_t now_ns = <int64_t>(now_s * 1e9)
        self.name = name
        self.coding = coding
        self.media_type = media_type
        self.content = content
        self.status = status
        self.size = file.size
        self.mtime_ns = file.mtime_ns
        self.ctime_ns = file.ctime_ns
        self.device = file.device
        self.inode = file.inode
        # Not later than now: section 8.8.2.1.
        self.modified_s = max(0, min(file.mtime_ns, now_ns) // SECOND_NS)
        self.etag = entity_tag(file, coding, now_ns)
        self.last_modified = http_date(self.modified_s)
        self.fields = list(headers.pairs)
        given = {key.lower(): value for key, value in headers.pairs}
        if coding:
            self.fields.append((b"Content-Encoding", coding))
        if status == 200:
            self.fields.append((b"Accept-Ranges", b"bytes"))
            if b"last-modified" not in given:
                self.fields.append((b"Last-Modified", self.last_modified))
            if b"etag" in given:
                self.etag = given[b"etag"]
            else:
                self.fields.append((b"ETag", self.etag))
        self.fields_304 = [pair for pair in self.fields if pair[0].lower() not in KEPT_OF_304]

    cdef bint is_still(self, OpenFile file):
        return (file.is_file and file.size == self.size and file.mtime_ns == self.mtime_ns
                and file.ctime_ns == self.ctime_ns and file.inode == self.inode
                and file.device == self.device)

    cdef int quick(self, Conditions conditions) except -1:
        # The commonest question, a browser's with the tag it was given; 0: look closer.
        if conditions.if_none_match is not None and conditions.if_match is None and (
                conditions.if_unmodified_since is None) and conditions.if_none_match == self.etag:
            return 304
        if conditions.if_modified_since is not None and conditions.if_none_match is None and (
                conditions.if_match is None and conditions.if_unmodified_since is None) and (
                conditions.if_modified_since == self.last_modified):
            return 304
        return 0

    cdef Response whole(self, OpenFile file):
        cdef Response response
        cdef bytes content = self.content
        if content is None and file is not None and self.size <= READ_BYTES:
            content = small_content(file)
        if content is not None:
            response = Response.__new__(Response)
            response.body = content
        else:
            response = spans([span_of(file, 0, self.size)], self.size, file)
        return self.dressed(response, self.status, self.fields, self.media_type)

    cdef Response unchanged(self):
        cdef Response response = Response.__new__(Response)
        response.body = b""
        return self.dressed(response, 304, self.fields_304, None)

    cdef Response part(self, int64_t offset, int64_t size, OpenFile file):
        cdef Response response
        if self.content is not None:
            response = Response.__new__(Response)
            response.body = self.content[offset:offset + size]
        else:
            response = spans([span_of(file, offset, size)], size, file)
        self.dressed(response, 206, self.fields, self.media_type)
        response.own_headers.pairs.append((b"Content-Range", self.content_range(offset, size)))
        return response

    cdef Response parts(self, list ranges, OpenFile file):
        # multipart/byteranges (section 14.6). The boundary is random: a file cannot hold it.
        cdef Response response
        cdef bytes boundary = os.urandom(16).hex().encode()
        cdef bytes head
        cdef list made = []
        cdef int64_t length = 0
        for offset, size in ranges:
            head = b"%b--%b\r\nContent-Type: %b\r\nContent-Range: %b\r\n\r\n" % (
                b"\r\n" if made else b"", boundary, self.media_type,
                self.content_range(offset, size))
            made.append(head)
            made.append(self.content[offset:offset + size] if self.content is not None
                        else span_of(file, offset, size))
            length += len(head) + <int64_t>size
        made.append(b"\r\n--%b--\r\n" % boundary)
        length += len(<bytes>made[-1])
        if self.content is not None:
            response = Response.__new__(Response)
            response.body = b"".join(made)
        else:
            response = spans(made, length, file)
        return self.dressed(response, 206, self.fields, b"multipart/byteranges; boundary=" + boundary)

    def content_range(self, offset, size):
        return b"bytes %d-%d/%d" % (offset, offset + size - 1, self.size)

    cdef Response dressed(self, Response response, int status, list fields, bytes media_type):
        cdef MutableHeaders headers = MutableHeaders.__new__(MutableHeaders)
        headers.pairs = list(fields)    # its own: middleware may change them
        response.status = status
        response.own_headers = headers
        response.media_type = media_type
        return response


cdef bytes small_content(OpenFile file):
    # Sent together with its head, it saves a system call; None where it is not in memory.
    try:
        content = read_file(file, True)
    except (BlockingIOError, EOFError):
        return None
    file.release()
    return content


cdef inline FileSpan span_of(OpenFile file, int64_t offset, int64_t size):
    cdef FileSpan span = FileSpan.__new__(FileSpan)
    span.fd = -1 if file is None else file.fd   # of a HEAD, whose body stays here
    span.offset = offset
    span.size = size
    return span


cdef Response spans(list parts, int64_t length, OpenFile file):
    cdef PartsResponse response = PartsResponse.__new__(PartsResponse)
    response.body = b""
    response.parts = parts
    response.length = length
    response.on_close = None if file is None else file.release
    return response


cdef bytes http_date(int64_t seconds):
    cdef char[DATE_BYTES] text
    put_date(text, seconds)
    return PyBytes_FromStringAndSize(text, DATE_BYTES)


cdef Response respond(Representation form, Request request, Conditions conditions, OpenFile file):
    """What the request gets. None where it is a part of a file that is not open."""
    cdef bint asks = request.method_id == METHOD_GET
    cdef bint head_only = request.method_id == METHOD_HEAD
    cdef list ranges = None
    cdef int status
    if conditions.any and form.status == 200 and (asks or head_only):
        status = form.quick(conditions)
        if status == 0:
            status = precondition(conditions, form.etag, form.modified_s)
        if status == 304:
            return form.unchanged()
        if status == 412:
            raise HTTPError(412)
        if asks:
            ranges = selected_ranges(
                conditions, form.etag, form.modified_s, form.size, <int64_t>time.time())
            if ranges is not None and not ranges:
                raise HTTPError(416, headers={"content-range": f"bytes */{form.size}",
                                              "accept-ranges": "bytes"})
    if form.content is None and file is None and not head_only:
        return None
    if ranges is None:
        return form.whole(file)
    if len(ranges) == 1:
        return form.part(ranges[0][0], ranges[0][1], file)
    return form.parts(ranges, file)


def respond_with(Representation form not None, Request request not None, OpenFile file):
    """The response of one file to a request: 200, 206 or 304.

    file:  open where the representation has no content of its own; on return the response
           owns it, or it can be released
    Raises HTTPError(412) and HTTPError(416).
    """
    return respond(form, request, read_conditions(request), file)


cdef class Entry:
    """What a path means for the moment.

    plain:  the file
    coded:  Representations of its content in codings
    """

    def __init__(self, Representation plain not None, list coded not None):
        cdef Representation form
        self.plain = plain
        self.coded = coded
        self.chosen = {}
        for form in [plain, *coded]:
            if form.content is not None:
                self.weight += PyBytes_GET_SIZE(form.content)

    cdef Representation choose(self, bytes accept_encoding):
        # The best weight; of those alike the smallest (RFC 9110 section 12.5.3).
        cdef Representation best = self.plain, form
        cdef double weight, highest
        if accept_encoding is None or not self.coded:
            return best
        form = self.chosen.get(accept_encoding)
        if form is not None:
            return form
        highest = coding_weight(accept_encoding, b"identity")
        if highest < 0:
            highest = 1e-6      # fine, but whatever was named is better
        for form in self.coded:
            weight = coding_weight(accept_encoding, form.coding)
            if weight > 0 and (weight > highest or weight == highest and form.size < best.size):
                best, highest = form, weight
        if len(self.chosen) < MAX_CHOICES:
            self.chosen[accept_encoding] = best
        return best


cdef class Shelf:
    """The entries of one directory, by raw path.

    look:   (request, path) -> what to answer when the path is not known
    clock:  seconds that only grow
    """

    def __init__(self, Root root not None, look, clock=None):
        self.root = root
        self.look = look
        self.entries = {}
        self.clock = clock

    cdef double now_s(self):
        return monotonic_s() if self.clock is None else self.clock()

    cdef Entry find(self, bytes key):
        cdef Entry entry = self.entries.get(key)
        if entry is not None and self.now_s() >= entry.expires_s:
            self.drop(key)
            return None
        return entry

    cdef int drop(self, bytes key) except -1:
        cdef Entry entry = self.entries.pop(key, None)
        if entry is not None:
            self.weight -= entry.weight
        return 0

    def put(self, bytes key not None, Entry entry not None):
        """Believe an entry for a second; the oldest make room."""
        self.drop(key)
        entry.expires_s = self.now_s() + FRESH_S
        while self.entries and (len(self.entries) >= MAX_ENTRIES
                                or self.weight + entry.weight > MAX_WEIGHT):
            self.drop(next(iter(self.entries)))
        self.entries[key] = entry
        self.weight += entry.weight

    def __len__(self):
        return len(self.entries)

    def get(self, Request request, str path):
        """The handler: the response to a request, or an awaitable of it. Raises HTTPError."""
        answer = self.answer(request)
        return self.look(request, path) if answer is None else answer

    cdef object answer(self, Request request):
        """The response to a request whose path is known and needs no disk; None otherwise.

        Raises HTTPError(412) and HTTPError(416).
        """
        cdef bytes key = PyBytes_FromStringAndSize(
            PyBytes_AS_STRING(request.head) + request.path_start, request.path_size)
        cdef Entry entry = self.find(key)
        if entry is None:
            return None
        answer = self.answer_entry(entry, request, None)
        if answer is None:
            self.drop(key)
        return answer

    cdef object answer_entry(self, Entry entry, Request request, OpenFile file):
        cdef Conditions conditions = read_conditions(request)
        cdef Representation form = entry.choose(conditions.accept_encoding)
        cdef Response response = respond(form, request, conditions, None)
        if response is not None:
            return response     # and `file`, if there is one, closes with its last reference
        if file is None:
            try:
                file = self.root.open(form.name, True)
            except OSError:
                return None
        if not form.is_still(file):
            file.release()
            return None
        return respond(form, request, conditions, file)

    def answer_with(self, Entry entry not None, Request request not None, OpenFile file=None):
        """The response of an entry; None where its file has changed, or is not in memory.

        file:  what form_for() says, where that is open already
        Raises HTTPError(412) and HTTPError(416).
        """
        return self.answer_entry(entry, request, file)

    def form_for(self, Entry entry not None, Request request not None):
        """The Representation that a request gets."""
        return entry.choose(read_conditions(request).accept_encoding)
