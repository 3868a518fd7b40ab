# The system calls of transport and files, and names for those that a system has not.
#
# None on sockets blocks: descriptors are non-blocking and the poller waits in the event loop.
# Those on files may wait for a disk, but for the ones that say so.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <stdint.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <unistd.h>
    #ifdef __linux__
    #include <sys/epoll.h>
    #define FS_HAVE_EPOLL 1
    static int fs_accept(int fd) { return accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC); }
    #else
    /* The names only; FS_HAVE_EPOLL keeps them from being used. */
    #define FS_HAVE_EPOLL 0
    enum { EPOLLRDHUP = 0x2000, EPOLLET = 0x40000000, EPOLLIN = 1, EPOLLOUT = 4, EPOLLERR = 8, EPOLLHUP = 16,
           EPOLL_CTL_ADD = 1, EPOLL_CTL_DEL = 2, EPOLL_CTL_MOD = 3, EPOLL_CLOEXEC = 0 };
    union epoll_data { uint64_t u64; };
    struct epoll_event { uint32_t events; union epoll_data data; };
    static int epoll_create1(int flags) { (void)flags; errno = ENOSYS; return -1; }
    static int epoll_ctl(int e, int op, int fd, struct epoll_event *v)
    { (void)e; (void)op; (void)fd; (void)v; errno = ENOSYS; return -1; }
    static int epoll_wait(int e, struct epoll_event *v, int n, int t)
    { (void)e; (void)v; (void)n; (void)t; errno = ENOSYS; return -1; }
    static int fs_accept(int listener)
    {
        int one = 1, fd = accept(listener, NULL, NULL);
        if (fd < 0) return fd;
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        return fd;
    }
    #endif
    #if defined(__x86_64__) || defined(__i386__)
    #include <x86intrin.h>
    /* Ticks at 1 to 5 GHz; good enough for a bound. */
    #define fs_cycles() ((uint64_t)__rdtsc())
    #else
    #include <time.h>
    static uint64_t fs_cycles(void)
    {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 3000000000u + (uint64_t)t.tv_nsec * 3u;
    }
    #endif
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    #ifdef ENONET
    #define FS_ENONET ENONET
    #else
    #define FS_ENONET EHOSTDOWN
    #endif
    /* One connection that failed while it was queued (accept(2)); the next may be sound. */
    #define fs_next_may_do(code) \
        ((code) == ECONNABORTED || (code) == EPROTO || (code) == ENETDOWN || (code) == FS_ENONET \
         || (code) == ENOPROTOOPT || (code) == EHOSTDOWN || (code) == EHOSTUNREACH \
         || (code) == EOPNOTSUPP || (code) == ENETUNREACH || (code) == ETIMEDOUT \
         || (code) == ECONNRESET || (code) == EPERM)
    #define try_again(code) ((code) == EAGAIN || (code) == EWOULDBLOCK || (code) == EINTR)
    /* How much the kernel keeps of what is written and not sent; 0: as much as it likes. */
    static void fs_limit_unsent(int fd, int bytes)
    {
    #ifdef TCP_NOTSENT_LOWAT
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, sizeof bytes);  /* a unix socket has none */
    #else
        (void)fd; (void)bytes;
    #endif
    }
    static ssize_t fs_send_pair(int fd, const char *a, size_t n, const char *b, size_t m)
    {
        struct iovec parts[2] = {{(void *)a, n}, {(void *)b, m}};
        struct msghdr message = {0};
        message.msg_iov = parts;
        message.msg_iovlen = 2;
        return sendmsg(fd, &message, MSG_NOSIGNAL);
    }
    #include <limits.h>
    #include <sys/stat.h>
    #ifndef MSG_MORE
    #define MSG_MORE 0
    #endif
    #ifndef O_PATH
    #define O_PATH O_RDONLY
    #endif
    #ifdef __linux__
    #include <sys/sendfile.h>
    #include <sys/syscall.h>
    #if __has_include(<linux/openat2.h>)
    #include <linux/openat2.h>
    #endif
    static ssize_t fs_sendfile(int out, int in, int64_t offset, size_t size)
    { off_t at = (off_t)offset; return sendfile(out, in, &at, size); }
    #define fs_mtime(s) (s).st_mtim
    #define fs_ctime(s) (s).st_ctim
    #else
    /* By way of a buffer: the BSDs' sendfile has other arguments on each of them. */
    static ssize_t fs_sendfile(int out, int in, int64_t offset, size_t size)
    {
        static char room[65536];
        ssize_t got = pread(in, room, size < sizeof room ? size : sizeof room, (off_t)offset);
        return got <= 0 ? got : send(out, room, (size_t)got, MSG_NOSIGNAL);
    }
    #ifdef __APPLE__
    #define fs_mtime(s) (s).st_mtimespec
    #define fs_ctime(s) (s).st_ctimespec
    #else
    #define fs_mtime(s) (s).st_mtim
    #define fs_ctime(s) (s).st_ctim
    #endif
    #endif
    /* openat2(2): a path that stays beneath a directory. ENOSYS where there is none. */
    #ifdef RESOLVE_BENEATH
    #ifndef RESOLVE_CACHED
    #define RESOLVE_CACHED 0x20
    #endif
    static int fs_openat2(int directory, const char *path, int flags, uint64_t resolve)
    {
        struct open_how how = {0};
        how.flags = (uint64_t)flags;
        how.resolve = resolve;
        return (int)syscall(SYS_openat2, directory, path, &how, sizeof how);
    }
    #else
    enum { RESOLVE_NO_MAGICLINKS = 2, RESOLVE_NO_SYMLINKS = 4, RESOLVE_BENEATH = 8,
           RESOLVE_CACHED = 32 };
    static int fs_openat2(int directory, const char *path, int flags, uint64_t resolve)
    { (void)directory; (void)path; (void)flags; (void)resolve; errno = ENOSYS; return -1; }
    #endif
    /* What a file has in memory, without waiting for a disk: -1 and EAGAIN for nothing. */
    #if defined(__linux__) && defined(RWF_NOWAIT)
    static ssize_t fs_read_cached(int fd, char *data, size_t size, int64_t offset)
    {
        struct iovec part = {data, size};
        return preadv2(fd, &part, 1, (off_t)offset, RWF_NOWAIT);
    }
    #else
    static ssize_t fs_read_cached(int fd, char *data, size_t size, int64_t offset)
    { (void)fd; (void)data; (void)size; (void)offset; errno = EOPNOTSUPP; return -1; }
    #endif
    /* Whether all of a range is in memory: 1, 0, or -1 for "cannot tell". Does not wait. */
    static int fs_resident(int fd, int64_t offset, int64_t size)
    {
        enum { STEP = 128 * 1024 };     /* what the kernel reads ahead at a time */
        int64_t at, end = offset + size;
    #ifdef __linux__
        /* cachestat(2), Linux 6.5; its number is the same on every architecture but alpha. */
        struct { uint64_t offset, size; } range;
        struct { uint64_t cached, dirty, writeback, evicted, recently; } found;
        int64_t pages;
        range.offset = (uint64_t)offset;
        range.size = (uint64_t)size;
    #ifndef __alpha__
        if (size > 0 && syscall(451, fd, &range, &found, 0) == 0) {
            long page = sysconf(_SC_PAGESIZE);
            pages = (end - 1) / page - offset / page + 1;
            return found.cached >= (uint64_t)pages;
        }
    #endif
    #endif
        for (at = offset; at < end; at += STEP) {
            char byte;
            if (fs_read_cached(fd, &byte, 1, at) < 0) return errno == EAGAIN ? 0 : -1;
        }
        return 1;
    }
    struct fs_status {
        int64_t size, mtime_ns, ctime_ns;
        uint64_t device, inode;
        int kind;
    };
    static int fs_stat_open(int fd, struct fs_status *out)
    {
        struct stat s;
        if (fstat(fd, &s) < 0) return -1;
        out->size = (int64_t)s.st_size;
        out->mtime_ns = (int64_t)fs_mtime(s).tv_sec * 1000000000 + fs_mtime(s).tv_nsec;
        out->ctime_ns = (int64_t)fs_ctime(s).tv_sec * 1000000000 + fs_ctime(s).tv_nsec;
        out->device = (uint64_t)s.st_dev;
        out->inode = (uint64_t)s.st_ino;
        out->kind = (int)(s.st_mode & S_IFMT);
        return 0;
    }
    """
    enum: FS_HAVE_EPOLL
    enum: EPOLLIN
    enum: EPOLLOUT
    enum: EPOLLERR
    enum: EPOLLRDHUP
    uint32_t EPOLLET
    enum: EPOLLHUP
    enum: EPOLL_CTL_ADD
    enum: EPOLL_CTL_DEL
    enum: EPOLL_CTL_MOD
    enum: EPOLL_CLOEXEC
    enum: MSG_NOSIGNAL
    enum: SHUT_WR
    bint try_again(int code)
    bint fs_next_may_do(int code)
    enum: ECONNRESET
    int c_errno "errno"
    union epoll_data:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_create1(int flags) nogil
    int epoll_ctl(int epoll, int operation, int fd, epoll_event* event) nogil
    int epoll_wait(int epoll, epoll_event* events, int count, int timeout_ms) nogil
    int fs_accept(int fd) nogil
    uint64_t fs_cycles() nogil
    ssize_t recv(int fd, void* data, size_t size, int flags) nogil
    ssize_t send(int fd, const void* data, size_t size, int flags) nogil
    void fs_limit_unsent(int fd, int bytes)
    ssize_t fs_send_pair(int fd, const char* a, size_t n, const char* b, size_t m) nogil
    int c_shutdown "shutdown"(int fd, int how) nogil
    int c_close "close"(int fd) nogil
    enum: MSG_MORE
    enum: O_PATH
    enum: O_CLOEXEC
    enum: O_DIRECTORY
    enum: O_NOCTTY
    enum: O_NONBLOCK
    enum: O_RDONLY
    enum: AT_FDCWD
    enum: S_IFREG
    enum: S_IFDIR
    uint64_t RESOLVE_NO_MAGICLINKS
    uint64_t RESOLVE_NO_SYMLINKS
    uint64_t RESOLVE_BENEATH
    uint64_t RESOLVE_CACHED
    struct fs_status:
        int64_t size
        int64_t mtime_ns
        int64_t ctime_ns
        uint64_t device
        uint64_t inode
        int kind
    ssize_t fs_sendfile(int out, int file, int64_t offset, size_t size) nogil
    int fs_openat2(int directory, const char* path, int flags, uint64_t resolve) nogil
    ssize_t fs_read_cached(int fd, char* data, size_t size, int64_t offset) nogil
    int fs_resident(int fd, int64_t offset, int64_t size) nogil
    int fs_stat_open(int fd, fs_status* out) nogil
    ssize_t c_pread "pread"(int fd, void* data, size_t size, int64_t offset) nogil
