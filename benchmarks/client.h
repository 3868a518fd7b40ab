/* What every client of the benches stands on: clocks, the server's CPU, latencies, connections.
 *
 * Define PROGRAM, the name that errors begin with, before including it.
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

enum { BUFFER = 1 << 18, EVENTS = 256, MAX_PIDS = 256, SUB = 64, BUCKETS = 64 * SUB };

typedef struct {
    uint64_t total_ns, user_ticks, system_ticks;
} cpu;

static struct sockaddr_in address = {.sin_family = AF_INET};
static char buffer[BUFFER];
static uint64_t histogram[BUCKETS];

static void die(const char *what) {
    fprintf(stderr, PROGRAM ": %s: %s\n", what, errno ? strerror(errno) : "unexpected");
    exit(1);
}

static uint64_t now(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t)) die("clock_gettime");
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* ---- the server's CPU ------------------------------------------------------------------- */

static cpu read_cpu(int count, char **pids) {
    cpu sum = {0};
    for (int i = 0; i < count; i++) {
        clockid_t clock;
        char path[64];
        unsigned long user, system;
        pid_t pid = atoi(pids[i]);
        if (clock_getcpuclockid(pid, &clock)) die("the server is gone");
        sum.total_ns += now(clock);
        snprintf(path, sizeof path, "/proc/%d/stat", pid);
        FILE *file = fopen(path, "r");
        if (!file || !fgets(buffer, sizeof buffer, file)) die(path);
        fclose(file);
        char *fields = strrchr(buffer, ')'); /* the name before it may hold spaces */
        if (!fields ||
            sscanf(fields + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                   &system) != 2)
            die(path);
        sum.user_ticks += user;
        sum.system_ticks += system;
    }
    return sum;
}

/* ---- latency: 64 steps per power of two, so 1.6 % exact ----------------------------------- */

static void record(uint64_t ns) {
    int shift = ns < SUB ? 0 : 63 - __builtin_clzll(ns) - 6;
    histogram[ns < SUB ? ns : shift * SUB + (ns >> shift)]++;
}

static double percentile(double share) {
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++) total += histogram[i];
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram[i];
        if (total && seen >= share * total) {
            int shift = i < 2 * SUB ? 0 : i / SUB - 1;
            return (double)((uint64_t)(i - shift * SUB) << shift) / 1000;
        }
    }
    return 0;
}

/* ---- connections -------------------------------------------------------------------------- */

static void open_many_files(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

static void aim(const char *port) {
    address.sin_port = htons(atoi(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
}

static int open_connection(void) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) die("socket");
    if (connect(fd, (void *)&address, sizeof address)) {
        close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* DEPTH times what the file holds; its own size is put into *size. */
static char *load_batch(const char *path, size_t depth, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    *size = fread(buffer, 1, sizeof buffer, file);
    fclose(file);
    char *batch = malloc(*size * depth);
    if (!batch) die("malloc");
    for (size_t i = 0; i < depth; i++) memcpy(batch + i * *size, buffer, *size);
    return batch;
}
