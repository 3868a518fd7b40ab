/* The floor: what a request costs when nothing is done with it.
 *
 * A level-triggered epoll loop with one recv and one send per event. It parses nothing: requests
 * are counted by their size, which the harness knows, and each is answered with the bytes the
 * harness recorded from the server under test. Whatever a server costs above this is its own.
 * What the kernel does not take of an answer is sent when it can, and nothing is read until then.
 *
 * floor PORT RESPONSE_FILE REQUEST_SIZE keep|close [WORKERS]
 *     With WORKERS, so many processes with a listener each, and one that waits for them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RECV_SIZE = 65536, EVENTS = 256, MAX_FDS = 65536 };

static char received[RECV_SIZE];
static size_t pending[MAX_FDS]; /* bytes of a request that is not complete yet, by connection */
static size_t owed[MAX_FDS];    /* bytes of answers that the kernel has not taken yet */
static char *responses;         /* one answer, many times */
static size_t length, capacity; /* of one, and of all */

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* The response, repeated as often as one recv can hold requests (and one that it completes). */
static void load_responses(const char *path, size_t copies) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) die(path);
    length = ftell(file);
    rewind(file);
    /* Answers of megabytes to requests of bytes: no more of them at once than memory bears. */
    while (copies > 1 && length * copies > 64 << 20) copies /= 2;
    capacity = length * copies;
    responses = malloc(capacity);
    if (!responses || !length || fread(responses, 1, length, file) != length) die("response file");
    for (size_t at = length; at < capacity; at += length) memcpy(responses + at, responses, length);
    fclose(file);
}

static int listen_on(int port, int shared) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (shared) setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* connections inherit it */
    if (bind(fd, (void *)&address, sizeof address)) die("bind");
    if (listen(fd, 4096)) die("listen");
    return fd;
}

static void accept_one(int epoll, int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0) return;
    if (fd >= MAX_FDS) die("too many connections");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    pending[fd] = owed[fd] = 0;
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

/* Send what is owed; 0 when all of it went, 1 when the kernel is full, -1 for a lost client. */
static int pay(int fd) {
    while (owed[fd]) {
        size_t at = owed[fd] % length ? length - owed[fd] % length : 0;
        size_t piece = owed[fd] < capacity - at ? owed[fd] : capacity - at;
        ssize_t n = send(fd, responses + at, piece, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN ? 1 : -1;
        owed[fd] -= n;
        if ((size_t)n < piece) return 1;
    }
    return 0;
}

static void on_event(int epoll, int fd, size_t request_size, int keep) {
    struct epoll_event event = {.data.fd = fd};
    int was_full = owed[fd] != 0;
    if (!was_full) {
        ssize_t n = recv(fd, received, RECV_SIZE, 0);
        if (n <= 0) {
            close(fd);
            return;
        }
        size_t have = pending[fd] + n, requests = have / request_size;
        pending[fd] = have % request_size;
        if (requests == 0) return;
        owed[fd] = requests * length;
    }
    int full = pay(fd);
    if (full < 0 || (full == 0 && !keep)) {
        close(fd);
    } else if (full != was_full) {
        event.events = full ? EPOLLOUT : EPOLLIN;
        epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
    }
}

static void serve(int listener, size_t request_size, int keep) {
    int epoll = epoll_create1(0);
    struct epoll_event events[EVENTS] = {{.events = EPOLLIN, .data.fd = listener}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &events[0]);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_one(epoll, listener);
            else
                on_event(epoll, fd, request_size, keep);
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 5 && argc != 6) return fprintf(stderr, "see the head of floor.c\n"), 2;
    size_t request_size = strtoul(argv[3], NULL, 10);
    int port = atoi(argv[1]), keep = strcmp(argv[4], "keep") == 0;
    int workers = argc == 6 ? atoi(argv[5]) : 0;
    load_responses(argv[2], RECV_SIZE / request_size + 1);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    if (workers == 0) serve(listen_on(port, 0), request_size, keep);
    for (int i = 0; i < workers; i++) {
        int listener = listen_on(port, 1);
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGTERM);
            serve(listener, request_size, keep);
        }
        close(listener);
    }
    while (wait(NULL) > 0) continue;
}
