/* The client of comparisons: answers may differ from request to request, and latency is honest.
 *
 * pace PORT REQUEST_FILE CONNECTIONS DEPTH RATE WARMUP_S SECONDS CHECK POSTMASTER PID...
 *
 * RATE 0: a closed loop. DEPTH requests at once on each connection; when all are answered, again.
 * RATE N: an open loop of N requests a second, DEPTH 1. When each request is due is fixed beforehand
 *     and does not depend on any answer; its latency counts from that moment, so that a server that
 *     stalls pays for every request that came meanwhile. Never more are in flight than there are
 *     connections: who finds none free waits, and that is latency, too. Arrivals are random
 *     (exponential gaps, as independent users make them), the same ones for every server: even gaps
 *     would never let two requests meet.
 *
 * CHECK: see framing.h. POSTMASTER: the database's first process, whose CPU and that of its children
 * are told apart; 0 where there is none. The CPU clocks are read here, at the very edges of the
 * measured window, so that a late scheduled harness cannot shift them. One line of JSON comes out:
 *   due           requests whose moment lay in the window; `dropped` of them had no answer DRAIN_S
 *                 after its end, or lost their connection: they count with the time they had waited
 *   queued        those that found no connection free
 *   late          those that this program itself sent more than 1 ms late; that counts as latency
 *   bad_status, mismatched, errors (broken or malformed)   also in a closed loop
 */
#define PROGRAM "pace"
#include "client.h"
#include "framing.h"

#include <math.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>

enum { ROOM = 1 << 16, LATE_NS = 1000000 };
static const double DRAIN_S = 2, PATIENCE_S = 5;

typedef struct {
    int fd;
    int outstanding; /* requests without an answer yet */
    size_t got;
    uint64_t due;
    char data[ROOM];
} conn;

static char *batch;
static size_t request_size;
static int depth, count, epoll, timer;
static double rate_per_s;
static shape expected;
static uint64_t answered, errors, bad_status, mismatched, due, dropped, queued, late;

/* The open loop: when the next request is due, who is free to send it, which ones are counted. */
static uint64_t next_due, random_state = 0x9e3779b97f4a7c15ull, freed_at;
static uint64_t counted_from = UINT64_MAX, counted_until = UINT64_MAX;
static conn **idle;
static int idle_first, idle_count;

static void put_idle(conn *c, uint64_t at) {
    if (!idle_count) freed_at = at;
    idle[(idle_first + idle_count++) % count] = c;
}

static conn *take_idle(void) {
    conn *c = idle[idle_first];
    idle_first = (idle_first + 1) % count;
    idle_count--;
    return c;
}

static void arrive(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    double uniform = ((random_state >> 11) + 1) * 0x1p-53; /* in (0, 1] */
    next_due += (uint64_t)(-log(uniform) / rate_per_s * 1e9);
}

static int is_counted(uint64_t moment) { return moment >= counted_from && moment < counted_until; }

static void ask(conn *c, uint64_t moment) {
    c->due = moment;
    c->outstanding = depth;
    /* Of a connection that is broken the next read tells, and counts it. */
    ssize_t n = send(c->fd, batch, request_size * depth, MSG_NOSIGNAL);
    if (n >= 0 && n != (ssize_t)request_size * depth) die("send");
}

/* A connection that is ready: in a closed loop it asks at once. */
static void ready(conn *c, uint64_t at) {
    if (rate_per_s)
        put_idle(c, at);
    else
        ask(c, at);
}

static void start(conn *c) {
    for (int tries = 0; (c->fd = open_connection()) < 0; tries++) {
        errors++;
        if (tries == 100) die("connect");
        usleep(10000);
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->got = c->outstanding = 0;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
}

/* Another connection for this one; what was under way on it is lost. */
static void reconnect(conn *c) {
    errors += c->outstanding;
    if (c->outstanding && rate_per_s && is_counted(c->due)) {
        dropped++;
        record(now(CLOCK_MONOTONIC) - c->due);
    }
    close(c->fd);
    start(c);
}

static void on_answer(conn *c, const answer *a, uint64_t at) {
    answered++;
    if (a->status != 200)
        bad_status++;
    else if (!is_right(&expected, a->body, a->body_size))
        mismatched++;
    if (--c->outstanding == 0 && (!rate_per_s || is_counted(c->due))) record(at - c->due);
}

static void on_readable(conn *c, uint64_t at) {
    ssize_t n = recv(c->fd, c->data + c->got, sizeof c->data - c->got, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (!c->outstanding) { /* it is among the idle ones, and keeps its place there */
        errors += n > 0;
        reconnect(c);
        return;
    }
    answer a = {0};
    long size = n > 0 ? INCOMPLETE : MALFORMED;
    char *data = c->data;
    int closing = 0;
    if (n > 0) c->got += n;
    while (n > 0 && c->outstanding && (size = frame(data, c->got, &a)) > 0) {
        on_answer(c, &a, at);
        data += size;
        c->got -= size;
        closing |= a.closing;
    }
    int too_much = c->got && !c->outstanding, too_long = !size && c->got == sizeof c->data;
    errors += too_much;
    if (size < 0 || too_much || too_long || closing)
        reconnect(c);
    else if (c->got && data != c->data)
        memmove(c->data, data, c->got);
    if (!c->outstanding) ready(c, at);
}

/* Send what is due; say when to look again. */
static void dispatch(uint64_t at) {
    while (next_due <= at && next_due < counted_until && idle_count) {
        uint64_t possible = next_due > freed_at ? next_due : freed_at;
        if (is_counted(next_due)) {
            due++;
            if (possible != next_due) queued++;
            if (at - possible > LATE_NS) late++;
        }
        ask(take_idle(), next_due);
        arrive();
        at = now(CLOCK_MONOTONIC);
    }
    uint64_t wake = idle_count && next_due < counted_until ? next_due : 0; /* 0: not at all */
    struct itimerspec when = {.it_value = {wake / 1000000000, wake % 1000000000}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static int in_flight(void) { return count - idle_count; }

static int is_over(void) { return rate_per_s && !in_flight() && next_due >= counted_until; }

/* Whether it is an instant in which nobody was answered yet, though somebody may be: no measure. */
static int is_empty(uint64_t at, uint64_t end) {
    return !answered && at < end + (uint64_t)(PATIENCE_S * 1e9) && !is_over();
}

/* Until `end`, and somebody was answered; or, with `drain`, until nothing more is owed. */
static void run_until(uint64_t end, int drain) {
    struct epoll_event events[EVENTS];
    for (uint64_t at = now(CLOCK_MONOTONIC); at < end || (!drain && is_empty(at, end));
         at = now(CLOCK_MONOTONIC)) {
        if (rate_per_s) dispatch(at);
        if (drain && is_over()) return;
        uint64_t left_ms = at < end ? (end - at) / 1000000 : 1;
        int n = epoll_wait(epoll, events, EVENTS, left_ms < 100 ? (int)left_ms : 100);
        for (int i = 0; i < n; i++)
            if (events[i].data.ptr) on_readable(events[i].data.ptr, now(CLOCK_MONOTONIC));
    }
}

/* What is still owed has waited until now, and may have waited for ever. */
static void give_up(conn *conns) {
    uint64_t at = now(CLOCK_MONOTONIC);
    for (int i = 0; i < count; i++)
        if (conns[i].outstanding && is_counted(conns[i].due)) dropped++, record(at - conns[i].due);
    for (; next_due < counted_until; arrive())
        if (is_counted(next_due)) due++, queued++, dropped++, record(at - next_due);
}

/* The CPU of the database's first process, of its children, and of those that have ended. */
static uint64_t read_database(const char *postmaster) {
    unsigned long user, system;
    char path[64], *pids[1];
    snprintf(path, sizeof path, "/proc/%s/stat", postmaster);
    FILE *file = fopen(path, "r");
    if (!file || !fgets(buffer, sizeof buffer, file)) die(path);
    fclose(file);
    if (sscanf(strrchr(buffer, ')') + 2,
               "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        die(path);
    uint64_t total = (user + system) * (1000000000ull / sysconf(_SC_CLK_TCK));
    pids[0] = (char *)postmaster;
    total += read_cpu(1, pids).total_ns;
    snprintf(path, sizeof path, "/proc/%s/task/%s/children", postmaster, postmaster);
    if (!(file = fopen(path, "r"))) die(path);
    for (int child; fscanf(file, "%d", &child) == 1;) {
        clockid_t clock;
        struct timespec t; /* one that has ended since is in the sum above next time */
        if (!clock_getcpuclockid(child, &clock) && !clock_gettime(clock, &t))
            total += t.tv_sec * 1000000000ull + t.tv_nsec;
    }
    fclose(file);
    return total;
}

int main(int argc, char **argv) {
    if (argc < 10) return fprintf(stderr, "see the head of pace.c\n"), 2;
    open_many_files();
    prctl(PR_SET_TIMERSLACK, 1);
    aim(argv[1]);
    count = atoi(argv[3]);
    depth = atoi(argv[4]);
    rate_per_s = atof(argv[5]);
    batch = load_batch(argv[2], depth, &request_size);
    read_shape(argv[8], &expected);
    const char *postmaster = strcmp(argv[9], "0") ? argv[9] : NULL;
    int pids = argc - 10;
    if (count < 1 || depth < 1 || (rate_per_s && depth > 1) || pids > MAX_PIDS) die("arguments");

    conn *conns = calloc(count, sizeof *conns);
    idle = calloc(count, sizeof *idle);
    epoll = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (!conns || !idle || epoll < 0 || timer < 0) die("no resources");
    struct epoll_event tick = {.events = EPOLLIN | EPOLLET};
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &tick);
    for (int i = 0; i < count; i++) start(&conns[i]);
    next_due = now(CLOCK_MONOTONIC);
    for (int i = 0; i < count; i++) ready(&conns[i], next_due);

    uint64_t window = (uint64_t)(atof(argv[7]) * 1e9);
    counted_from = next_due + (uint64_t)(atof(argv[6]) * 1e9);
    counted_until = counted_from + window;
    if (rate_per_s) arrive();
    run_until(counted_from, 0);

    /* A request that is broken, wrong or refused counts as such whenever it happens. */
    if (!rate_per_s) memset(histogram, 0, sizeof histogram);
    answered = 0;
    uint64_t begin = now(CLOCK_MONOTONIC), own = now(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t database = postmaster ? read_database(postmaster) : 0;
    cpu before = read_cpu(pids, argv + 10);
    run_until(counted_until, 0);
    cpu after = read_cpu(pids, argv + 10);
    database = postmaster ? read_database(postmaster) - database : 0;
    uint64_t wall = now(CLOCK_MONOTONIC) - begin, in_window = answered;
    own = now(CLOCK_PROCESS_CPUTIME_ID) - own;
    if (rate_per_s) {
        run_until(now(CLOCK_MONOTONIC) + (uint64_t)(DRAIN_S * 1e9), 1);
        give_up(conns);
    }
    printf("{\"answered\": %lu, \"errors\": %lu, \"bad_status\": %lu, \"mismatched\": %lu, "
           "\"due\": %lu, \"dropped\": %lu, \"queued\": %lu, \"late\": %lu, \"wall_ns\": %lu, "
           "\"cpu_ns\": %lu, \"user_ticks\": %lu, \"system_ticks\": %lu, \"database_ns\": %lu, "
           "\"client_cpu_ns\": %lu, \"p50_us\": %.1f, \"p75_us\": %.1f, \"p90_us\": %.1f, "
           "\"p99_us\": %.1f, \"p999_us\": %.1f, \"p9999_us\": %.1f, \"max_us\": %.1f}\n",
           in_window, errors, bad_status, mismatched, due, dropped, queued, late, wall,
           after.total_ns - before.total_ns, after.user_ticks - before.user_ticks,
           after.system_ticks - before.system_ticks, database, own, percentile(0.5),
           percentile(0.75), percentile(0.9), percentile(0.99), percentile(0.999),
           percentile(0.9999), percentile(1));
}
