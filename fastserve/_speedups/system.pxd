# The system calls of transport, and epoll's names where there is no epoll.
#
# None of them blocks: descriptors are non-blocking and the poller waits in the event loop.

from libc.stdint cimport uint32_t, uint64_t

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
    static ssize_t fs_send_pair(int fd, const char *a, size_t n, const char *b, size_t m)
    {
        struct iovec parts[2] = {{(void *)a, n}, {(void *)b, m}};
        struct msghdr message = {0};
        message.msg_iov = parts;
        message.msg_iovlen = 2;
        return sendmsg(fd, &message, MSG_NOSIGNAL);
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
    ssize_t fs_send_pair(int fd, const char* a, size_t n, const char* b, size_t m) nogil
    int c_shutdown "shutdown"(int fd, int how) nogil
    int c_close "close"(int fd) nogil
