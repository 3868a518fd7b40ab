/* The client of `growth` and `million`: a closed loop whose own work stays small at every size.
 *
 * flood PORT REQUESTS_FILE COUNT CONNECTIONS DEPTH SOURCES WARMUP_S SECONDS PID...
 *
 * REQUESTS_FILE holds COUNT requests of one size, one behind the other. Every connection asks them
 * in turn, DEPTH at once; when all are answered, the next ones. The connections come from SOURCES
 * loopback addresses, 127.0.0.1 and the next ones, so that the ports of one are no bound.
 *
 * The first answer (200, one Content-Length) is what all must be, byte for byte but for the Date.
 * Of answers larger than the buffer the first piece is compared; the rest is counted and dropped
 * in the kernel, so that a slow client does not measure itself. A connection that the server
 * closes ends the run. The CPU clocks of the PIDs are read at the edges of the measured window,
 * which lasts at least until twice as many answers have come as are asked for at once: those that
 * lay ready at its beginning cost the server nothing within it.
 * Then what is under way is waited for: `total` are all answers to all requests that were sent.
 * One line of JSON comes out.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 1 << 18, EVENTS = 256, GROUP = 256, DATE_SIZE = 29, PATIENCE_S = 20 };

typedef struct {
    int fd, blocked; /* blocked: the kernel took a part of what is asked, EPOLLOUT is awaited */
    size_t got;      /* bytes of the answers outstanding that have come */
    size_t unsent;   /* bytes of the requests that the kernel has not taken yet */
    size_t next;     /* the first request of the next batch */
} conn;

static struct sockaddr_in server = {.sin_family = AF_INET};
static char buffer[BUFFER];
static char *ring; /* all requests, and the first DEPTH - 1 again */
static char *expected; /* one answer, or a whole batch of them where that fits the buffer */
static size_t request_size, batch_size, count, depth, answer_size, expected_size, due;
static size_t date; /* where the value of Date begins in an answer; 0: there is none */
static uint64_t answered, mismatched, waiting;
static int epoll, asking;

static void die(const char *what) {
    fprintf(stderr, "flood: %s: %s\n", what, errno ? strerror(errno) : "unexpected");
    exit(1);
}

static uint64_t now(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t)) die("clock_gettime");
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t cpu_of(int pids, char **pid) {
    uint64_t sum = 0;
    for (int i = 0; i < pids; i++) {
        clockid_t clock;
        if ((errno = clock_getcpuclockid(atoi(pid[i]), &clock))) die("the server is gone");
        sum += now(clock);
    }
    return sum;
}

/* ---- answers ------------------------------------------------------------------------------ */

/* Bytes unlike the expected: a new Date is taken over, anything else is counted. */
static void differ(const char *data, size_t place, size_t size) {
    for (size_t i = 0; i < size; i++) {
        size_t inside = (place + i) % answer_size;
        if (data[i] == expected[place + i]) continue;
        if (!date || inside < date || inside >= date + DATE_SIZE) {
            mismatched++;
            return;
        }
        expected[place + i] = data[i];
    }
}

static void check(const char *data, size_t size, size_t at) {
    while (size) {
        size_t place = at % expected_size;
        size_t piece = size < expected_size - place ? size : expected_size - place;
        if (memcmp(data, expected + place, piece)) differ(data, place, piece);
        data += piece, size -= piece, at += piece;
    }
}

static int open_connection(int source) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in own = {.sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK + source)};
    if (fd < 0) die("socket");
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, (void *)&own, sizeof own)) die("bind");
    if (connect(fd, (void *)&server, sizeof server)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* Ask once, parse the answer properly, and keep it as what all must be like. */
static void learn(void) {
    struct timeval patience = {.tv_sec = PATIENCE_S};
    int fd = open_connection(0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (size_t sent = 0; sent < request_size;) {
        ssize_t n = send(fd, ring + sent, request_size - sent, MSG_NOSIGNAL);
        if (n < 0) die("send");
        sent += n;
    }
    size_t have = 0, length = 0;
    char *end = NULL, *field = NULL;
    for (errno = 0; !end || have < answer_size;) {
        int room = have < sizeof buffer - 1; /* of a larger answer only the beginning is kept */
        ssize_t n = room ? recv(fd, buffer + have, sizeof buffer - 1 - have, 0)
                         : recv(fd, buffer, answer_size - have, MSG_TRUNC);
        if (n <= 0) die("no complete answer");
        have += n;
        if (room) buffer[have] = 0;
        if (end || !(end = strstr(buffer, "\r\n\r\n"))) continue;
        if (memcmp(buffer, "HTTP/1.1 200", 12)) die("the answer is no 200");
        for (char *line = strstr(buffer, "\r\n") + 2; line < end; line = strstr(line, "\r\n") + 2) {
            if (!strncasecmp(line, "date: ", 6)) date = line + 6 - buffer;
            if (strncasecmp(line, "content-length:", 15)) continue;
            if (field) die("two Content-Length");
            field = line + 15;
        }
        if (!field) die("no Content-Length");
        length = strtoul(field, NULL, 10);
        answer_size = end + 4 - buffer + length;
    }
    if (have != answer_size) die("more than one answer");
    close(fd);

    due = depth * answer_size;
    size_t copies = due <= BUFFER ? depth : 1;
    expected_size = copies * answer_size;
    if (answer_size > BUFFER - 1) {
        if (depth > 1) die("answers too large to pipeline");
        expected_size = BUFFER - 1; /* nothing behind it is compared */
    }
    expected = malloc(expected_size);
    if (!expected) die("malloc");
    for (size_t at = 0; at < expected_size; at += answer_size)
        memcpy(expected + at, buffer, expected_size < answer_size ? expected_size : answer_size);
}

/* ---- connections -------------------------------------------------------------------------- */

static void watch(conn *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, operation, c->fd, &event)) die("epoll_ctl");
}

static void push(conn *c) {
    while (c->unsent) {
        const char *end = ring + c->next * request_size + batch_size;
        ssize_t n = send(c->fd, end - c->unsent, c->unsent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) die("send");
        if (n < 0) {
            if (!c->blocked) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            c->blocked = 1;
            return;
        }
        c->unsent -= n;
    }
    if (c->blocked) watch(c, EPOLL_CTL_MOD, EPOLLIN);
    c->blocked = 0;
}

static void ask(conn *c) {
    c->next = count > 1 ? (c->next + depth) % count : 0;
    c->got = 0;
    c->unsent = batch_size;
    waiting++;
    push(c);
}

static void on_readable(conn *c) {
    int drop = c->got >= expected_size && answer_size > expected_size;
    ssize_t n = drop ? recv(c->fd, buffer, due - c->got, MSG_TRUNC)
                     : recv(c->fd, buffer, answer_size > BUFFER - 1 ? expected_size - c->got
                                                                    : sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n == 0) errno = 0;
    if (n <= 0) die("the server ended a connection");
    if (!drop) check(buffer, n, c->got);
    c->got += n;
    if (c->got < due) return;
    if (c->got > due || c->unsent) errno = 0, die("more answers than requests");
    answered += depth;
    waiting--;
    if (asking) ask(c);
}

static void turn(void) {
    struct epoll_event events[EVENTS];
    int ready = epoll_wait(epoll, events, EVENTS, 100);
    for (int i = 0; i < ready; i++) {
        conn *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT) push(c);
        if (events[i].events & ~EPOLLOUT) on_readable(c);
    }
}

static void patiently(uint64_t since) {
    errno = 0;
    if (now(CLOCK_MONOTONIC) <= since + PATIENCE_S * 1000000000ull) return;
    die(mismatched ? "answers are unlike the first, and some are missing" : "answers are missing");
}

/* To a time, and further until so many answers have come: an instant is no measurement. */
static void run_until(uint64_t end, uint64_t least) {
    while (now(CLOCK_MONOTONIC) < end) turn();
    while (answered < least) turn(), patiently(end);
}

static void drain(void) {
    uint64_t since = now(CLOCK_MONOTONIC);
    asking = 0;
    while (waiting) turn(), patiently(since);
}

/* In groups, each answered once before the next: no backlog of the server overflows. */
static void open_all(conn *conns, int connections, int sources) {
    for (int i = 0; i < connections; i++) {
        conns[i].fd = open_connection(i % sources);
        conns[i].next = i % count;
        fcntl(conns[i].fd, F_SETFL, O_NONBLOCK);
        watch(&conns[i], EPOLL_CTL_ADD, EPOLLIN);
        ask(&conns[i]);
        if (i % GROUP == GROUP - 1) drain();
    }
    drain();
}

static void load_requests(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) die(path);
    size_t size = ftell(file);
    rewind(file);
    request_size = size / count;
    batch_size = depth * request_size;
    if (!size || size % count) errno = 0, die("requests are not of one size");
    ring = malloc(size + batch_size);
    if (!ring || fread(ring, 1, size, file) != size) die(path);
    for (size_t at = 0; at < batch_size; at += request_size)
        memcpy(ring + size + at, ring + at % size, request_size);
    fclose(file);
}

int main(int argc, char **argv) {
    if (argc < 9) return fprintf(stderr, "see the head of flood.c\n"), 2;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    server.sin_port = htons(atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    count = strtoul(argv[3], NULL, 10);
    depth = strtoul(argv[5], NULL, 10);
    int connections = atoi(argv[4]), sources = atoi(argv[6]), pids = argc - 9;
    load_requests(argv[2]);
    learn();
    conn *conns = calloc(connections, sizeof *conns);
    if ((epoll = epoll_create1(0)) < 0) die("epoll_create1");
    open_all(conns, connections, sources);

    asking = 1;
    for (int i = 0; i < connections; i++) ask(&conns[i]);
    run_until(now(CLOCK_MONOTONIC) + (uint64_t)(atof(argv[7]) * 1e9), 0);

    uint64_t before = answered, begin = now(CLOCK_MONOTONIC), own = now(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t cpu = cpu_of(pids, argv + 9);
    run_until(begin + (uint64_t)(atof(argv[8]) * 1e9), before + 2 * connections * depth);
    cpu = cpu_of(pids, argv + 9) - cpu;
    uint64_t wall = now(CLOCK_MONOTONIC) - begin, inside = answered - before;
    own = now(CLOCK_PROCESS_CPUTIME_ID) - own;
    drain();
    printf("{\"answered\": %lu, \"mismatched\": %lu, \"answer_size\": %zu, \"wall_ns\": %lu, "
           "\"cpu_ns\": %lu, \"client_cpu_ns\": %lu, \"total\": %lu}\n",
           inside, mismatched, answer_size, wall, cpu, own, answered + 1);
}
