/* The client: a closed loop of fixed requests, cheaper than any server it measures.
 *
 * load keep PORT REQUEST_FILE CONNECTIONS DEPTH WARMUP_S SECONDS PID...
 *     DEPTH requests at once on each of CONNECTIONS; when all are answered, again.
 * load new  PORT REQUEST_FILE CONNECTIONS 1     WARMUP_S SECONDS PID...
 *     A connection per request: connect, send, read to the end of the stream.
 * load idle PORT REQUEST_FILE CONNECTIONS
 *     Open all, one request each, say "ready", hold them until standard input ends.
 *
 * The first answer is parsed (200, exactly one Content-Length, or 304 and none); its length and body
 * are what every later answer must have, bodies that come in pieces by their length alone. The CPU
 * clocks of the PIDs are read here, at the very edges of the measured window, so that a late
 * scheduled harness cannot shift them. One line of JSON comes out.
 */
#define PROGRAM "load"
#include "client.h"

#include <poll.h>

typedef struct {
    int fd;
    size_t got;    /* bytes of the answers outstanding that have come */
    uint64_t sent; /* when they were asked for */
} conn;

static char *batch, first[BUFFER];
static size_t batch_size, request_size; /* one batch is DEPTH requests */
static size_t answer_size, body_size, depth = 1;
static uint64_t answered, errors, mismatched;
static int keep, epoll;

static void ask(conn *c, uint64_t at) {
    c->got = 0;
    c->sent = at;
    if (send(c->fd, batch, batch_size, MSG_NOSIGNAL) != (ssize_t)batch_size) errors++;
}

static void start(conn *c) {
    for (int tries = 0; (c->fd = open_connection()) < 0; tries++) {
        errors++;
        if (tries == 100) die("connect");
        usleep(10000);
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
    ask(c, now(CLOCK_MONOTONIC));
}

/* Parse one answer properly; what it is like is what all must be like. */
static void learn(void) {
    struct timeval patience = {.tv_sec = 5};
    int fd = open_connection();
    if (fd < 0) die("connect");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (send(fd, batch, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) die("send");
    size_t have = 0;
    char *end = NULL, *field = NULL;
    for (errno = 0; !end || have < answer_size;) {
        int room = have < sizeof first - 1; /* of a larger answer only the beginning is kept */
        ssize_t n = room ? recv(fd, first + have, sizeof first - 1 - have, 0)
                         : recv(fd, buffer, sizeof buffer, 0);
        if (n <= 0) die("no complete answer");
        have += n;
        if (room) first[have] = 0;
        if (end || !(end = strstr(first, "\r\n\r\n"))) continue;
        int unchanged = !memcmp(first, "HTTP/1.1 304", 12);
        if (!unchanged && memcmp(first, "HTTP/1.1 200", 12)) die("the answer is no 200 or 304");
        for (char *line = first; line < end; line = strstr(line, "\r\n") + 2) {
            if (strncasecmp(line, "content-length:", 15)) continue;
            if (field) die("two Content-Length");
            field = line + 15;
        }
        if (!field && !unchanged) die("no Content-Length");
        body_size = unchanged ? 0 : strtoul(field, NULL, 10);
        answer_size = end + 4 - first + body_size;
    }
    if (have != answer_size) die("more than one answer");
    close(fd);
}

/* Answers that came whole, in one piece, are compared; the others are counted by their length. */
static void compare(const char *answers, size_t count) {
    for (size_t i = 0; i < count; i++, answers += answer_size) {
        size_t body = answer_size - body_size;
        if (memcmp(answers, first, 12) || memcmp(answers + body, first + body, body_size))
            mismatched++;
    }
}

static void on_readable(conn *c, uint64_t at) {
    size_t due = depth * answer_size;
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n > 0) {
        if (c->got == 0) compare(buffer, (n < (ssize_t)due ? (size_t)n : due) / answer_size);
        c->got += n;
        if (keep && c->got == due) {
            answered += depth;
            record(at - c->sent);
            ask(c, at);
        }
        if (c->got <= due) return;
        mismatched++;
    } else if (n < 0 && errno == EAGAIN) {
        return;
    } else if (!keep && n == 0 && c->got == due) {
        answered++;
        record(at - c->sent);
    } else {
        errors++;
    }
    close(c->fd);
    start(c);
}

static void run_until(uint64_t end) {
    struct epoll_event events[EVENTS];
    for (uint64_t at = 0; at < end;) {
        int ready = epoll_wait(epoll, events, EVENTS, 100);
        at = now(CLOCK_MONOTONIC);
        for (int i = 0; i < ready; i++) {
            on_readable(events[i].data.ptr, at);
            at = now(CLOCK_MONOTONIC);
        }
    }
}

static void hold(int count) {
    struct timeval patience = {.tv_sec = 10};
    struct pollfd *fds = calloc(count, sizeof *fds);
    for (int i = 0; i < count; i++) {
        fds[i] = (struct pollfd){.fd = open_connection(), .events = POLLIN | POLLRDHUP};
        if (fds[i].fd < 0) die("connect");
        setsockopt(fds[i].fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        if (send(fds[i].fd, batch, batch_size, MSG_NOSIGNAL) < 0) die("send");
        for (size_t got = 0; got < answer_size;) {
            ssize_t n = recv(fds[i].fd, buffer, sizeof buffer, 0);
            if (n <= 0) die("recv");
            got += n;
        }
    }
    puts("ready");
    fflush(stdout);
    while (read(0, buffer, sizeof buffer) > 0) continue;
    printf("{\"open\": %d, \"closed_by_server\": %d}\n", count, poll(fds, count, 0));
}

int main(int argc, char **argv) {
    int idle = argc > 1 && !strcmp(argv[1], "idle");
    if (argc < (idle ? 5 : 9)) return fprintf(stderr, "see the head of load.c\n"), 2;
    open_many_files();

    keep = !!strcmp(argv[1], "new");
    aim(argv[2]);
    int count = atoi(argv[4]);
    depth = idle ? 1 : strtoul(argv[5], NULL, 10);
    batch = load_batch(argv[3], depth, &request_size);
    batch_size = request_size * depth;
    learn();
    if (depth > 1 && depth * answer_size > sizeof buffer) die("answers too long for the buffer");
    if (idle) return hold(count), 0;

    int pids = argc - 8;
    if (pids > MAX_PIDS) die("too many processes");
    conn *conns = calloc(count, sizeof *conns);
    epoll = epoll_create1(0);
    for (int i = 0; i < count; i++) start(&conns[i]);
    run_until(now(CLOCK_MONOTONIC) + (uint64_t)(atof(argv[6]) * 1e9));

    answered = errors = 0;
    memset(histogram, 0, sizeof histogram);
    uint64_t begin = now(CLOCK_MONOTONIC), own = now(CLOCK_PROCESS_CPUTIME_ID);
    cpu before = read_cpu(pids, argv + 8);
    run_until(begin + (uint64_t)(atof(argv[7]) * 1e9));
    cpu after = read_cpu(pids, argv + 8);
    uint64_t wall = now(CLOCK_MONOTONIC) - begin;
    own = now(CLOCK_PROCESS_CPUTIME_ID) - own;
    printf("{\"answered\": %lu, \"errors\": %lu, \"mismatched\": %lu, \"answer_size\": %zu, "
           "\"wall_ns\": %lu, \"cpu_ns\": %lu, \"user_ticks\": %lu, \"system_ticks\": %lu, "
           "\"client_cpu_ns\": %lu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f}\n",
           answered, errors, mismatched, answer_size, wall, after.total_ns - before.total_ns,
           after.user_ticks - before.user_ticks, after.system_ticks - before.system_ticks, own,
           percentile(0.5), percentile(0.99), percentile(0.999));
}
