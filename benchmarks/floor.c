/* The floor: what a request costs when nothing is done with it.
 *
 * A level-triggered epoll loop with one recv and one send per event. It parses nothing: requests
 * are counted by their size, which the harness knows, and each is answered with the bytes the
 * harness recorded from the server under test. Whatever a server costs above this is its own.
 *
 * floor PORT RESPONSE_FILE REQUEST_SIZE keep|close
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RECV_SIZE = 65536, EVENTS = 256, MAX_FDS = 65536 };

static char received[RECV_SIZE];
static size_t pending[MAX_FDS]; /* bytes of a request that is not complete yet, by connection */

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* The response, repeated as often as one recv can hold requests (and one that it completes). */
static char *load_responses(const char *path, size_t copies, size_t *length) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    char one[RECV_SIZE];
    *length = fread(one, 1, sizeof one, file);
    fclose(file);
    if (*length == 0 || *length == sizeof one) die("response file");
    char *all = malloc(*length * copies);
    if (!all) die("malloc");
    for (size_t i = 0; i < copies; i++) memcpy(all + i * *length, one, *length);
    return all;
}

static int listen_on(int port) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
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
    pending[fd] = 0;
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

int main(int argc, char **argv) {
    if (argc != 5) return fprintf(stderr, "floor PORT RESPONSE_FILE REQUEST_SIZE keep|close\n"), 2;
    size_t request_size = strtoul(argv[3], NULL, 10), length;
    int keep = strcmp(argv[4], "keep") == 0;
    char *responses = load_responses(argv[2], RECV_SIZE / request_size + 1, &length);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    int listener = listen_on(atoi(argv[1])), epoll = epoll_create1(0);
    struct epoll_event events[EVENTS] = {{.events = EPOLLIN, .data.fd = listener}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &events[0]);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_one(epoll, listener);
                continue;
            }
            ssize_t n = recv(fd, received, RECV_SIZE, 0);
            if (n <= 0) {
                close(fd);
                continue;
            }
            size_t have = pending[fd] + n, requests = have / request_size;
            pending[fd] = have % request_size;
            if (requests == 0) continue;
            ssize_t all = requests * length;
            if (send(fd, responses, all, MSG_NOSIGNAL) != all || !keep) close(fd);
        }
    }
}
