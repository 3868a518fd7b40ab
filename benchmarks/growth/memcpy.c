/* What copying takes: the bound below which no body of so many bytes can be handed on.
 *
 * memcpy BYTES...
 *
 * For each size one line: BYTES WARM_NS COLD_NS. Warm copies the same bytes to the same place
 * again and again, as caches allow; cold walks through two areas of AREA bytes, from memory to
 * memory. The best of several passes: a bound is no average.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PASSES = 5, LEAST_BYTES = 1 << 26 };
static const size_t AREA = 256u << 20;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static double pass(char *to, const char *from, size_t size, size_t step) {
    size_t times = LEAST_BYTES / size ? LEAST_BYTES / size : 1, at = 0;
    uint64_t begin = now();
    for (size_t i = 0; i < times; i++) {
        memcpy(to + at, from + at, size);
        __asm__ volatile("" ::"r"(to + at) : "memory"); /* the copy is not to be left out */
        at = step && at + step + size <= AREA ? at + step : 0;
    }
    return (double)(now() - begin) / times;
}

static double best(char *to, const char *from, size_t size, size_t step) {
    double least = pass(to, from, size, step);
    for (int i = 1; i < PASSES; i++) {
        double other = pass(to, from, size, step);
        if (other < least) least = other;
    }
    return least;
}

int main(int argc, char **argv) {
    char *to = malloc(AREA), *from = malloc(AREA);
    if (!to || !from) return perror("malloc"), 1;
    memset(to, 1, AREA);
    memset(from, 2, AREA);
    for (int i = 1; i < argc; i++) {
        size_t size = strtoul(argv[i], NULL, 10);
        if (size == 0 || size > AREA) return fprintf(stderr, "memcpy: %s: no size\n", argv[i]), 2;
        size_t step = (size + 4095) / 4096 * 4096; /* whole pages: nothing is met twice soon */
        printf("%zu %.1f %.1f\n", size, best(to, from, size, 0), best(to, from, size, step));
    }
}
