/* Where an answer ends, and whether it is what was asked for, whatever its body says.
 *
 * An answer has exactly one of Content-Length and `Transfer-Encoding: chunked`; everything else is
 * malformed, for on a connection that stays open nobody would know where it ends.
 */
enum { INCOMPLETE = 0, MALFORMED = -1 };

typedef struct {
    int status, closing; /* closing: `Connection: close` */
    const char *body;    /* without the framing of chunks; good until the next answer is read */
    size_t body_size;
} answer;

/* What a body must be: like the first one, or of a shape. */
typedef struct {
    int same;
    char *marker, *first, *last; /* it begins and ends so, case and white space aside, ... */
    size_t count;                /* ... and holds the marker so many times */
    char *known;
    size_t known_size;
} shape;

static char unchunked[BUFFER];

static long digits(const char *at, const char *end, int base, const char **rest) {
    long value = 0;
    const char *begin = at;
    for (; at < end; at++) {
        int digit = *at >= '0' && *at <= '9' ? *at - '0' : (*at | 32) >= 'a' ? (*at | 32) - 'a' + 10 : 99;
        if (digit >= base) break;
        value = value * base + digit;
        if (value > BUFFER) return MALFORMED;
    }
    *rest = at;
    return at == begin ? MALFORMED : value;
}

/* The value of the field on this line if it is that one: without white space around it. */
static const char *value_of(const char *line, const char **end, const char *name, size_t size) {
    if ((size_t)(*end - line) <= size || line[size] != ':' || strncasecmp(line, name, size))
        return NULL;
    for (line += size + 1; line < *end && (*line == ' ' || *line == '\t'); line++) continue;
    while (*end > line && ((*end)[-1] == ' ' || (*end)[-1] == '\t')) (*end)--;
    return line;
}

/* The bytes of the chunked body at `at`, its chunks put together; or INCOMPLETE, MALFORMED. */
static long frame_chunks(const char *at, const char *end, answer *a) {
    const char *begin = at, *line;
    for (a->body = unchunked, a->body_size = 0;;) {
        if (!(line = memmem(at, end - at, "\r\n", 2))) return INCOMPLETE;
        long size = digits(at, line, 16, &at);
        if (size < 0 || (at < line && *at != ';' && *at != ' ')) return MALFORMED;
        at = line + 2;
        if (end - at < size + 2) return INCOMPLETE;
        if (memcmp(at + size, "\r\n", 2)) return MALFORMED; /* so are trailers: nobody asked */
        if (a->body_size + size > sizeof unchunked) return MALFORMED;
        memcpy(unchunked + a->body_size, at, size);
        a->body_size += size;
        at += size + 2;
        if (size == 0) return at - begin;
    }
}

/* The size of the answer that `data` begins with; or INCOMPLETE, MALFORMED. */
static long frame(const char *data, size_t have, answer *a) {
    const char *head = memmem(data, have, "\r\n\r\n", 4), *end, *value, *rest;
    if (!head) return INCOMPLETE;
    if (head - data < 12 || memcmp(data, "HTTP/1.1 ", 9)) return MALFORMED;
    a->status = atoi(data + 9);
    a->closing = 0;
    long length = -1;
    int chunked = 0;
    for (const char *line = data; line < head; line = end + 2) {
        const char *stop = end = memmem(line, head + 2 - line, "\r\n", 2);
        if ((value = value_of(line, &stop, "content-length", 14))) {
            if (length >= 0 || (length = digits(value, stop, 10, &rest)) < 0 || rest != stop)
                return MALFORMED;
        } else if ((value = value_of(line, &stop, "transfer-encoding", 17))) {
            if (chunked || stop - value != 7 || strncasecmp(value, "chunked", 7)) return MALFORMED;
            chunked = 1;
        } else if ((value = value_of(line, &stop, "connection", 10))) {
            a->closing = stop - value == 5 && !strncasecmp(value, "close", 5);
        }
    }
    if (chunked == (length >= 0)) return MALFORMED;
    const char *body = head + 4;
    if (chunked) {
        long size = frame_chunks(body, data + have, a);
        return size > 0 ? body + size - data : size;
    }
    a->body = body;
    a->body_size = length;
    return data + have - body < length ? INCOMPLETE : body + length - data;
}

/* "same", or COUNT:MARKER:FIRST:LAST; the text is kept and cut. */
static void read_shape(char *text, shape *s) {
    if ((s->same = !strcmp(text, "same"))) return;
    s->count = strtoul(strsep(&text, ":"), NULL, 10);
    s->marker = strsep(&text, ":");
    s->first = strsep(&text, ":");
    s->last = strsep(&text, ":");
    if (!s->last || !*s->marker || text) {
        errno = EINVAL;
        die("the check is neither `same` nor COUNT:MARKER:FIRST:LAST");
    }
}

static int is_blank(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

/* Whether the body is what it must be; the first one of all is what `same` compares with. */
static int is_right(shape *s, const char *body, size_t size) {
    if (s->same) {
        if (!s->known && (s->known = malloc(size + 1))) {
            memcpy(s->known, body, size);
            s->known_size = size;
        }
        return s->known && size == s->known_size && !memcmp(s->known, body, size);
    }
    const char *at = body, *end = body + size;
    size_t first = strlen(s->first), last = strlen(s->last), seen = 0;
    while (at < end && is_blank(*at)) at++;
    while (end > at && is_blank(end[-1])) end--;
    if ((size_t)(end - at) < first + last || strncasecmp(at, s->first, first) ||
        strncasecmp(end - last, s->last, last))
        return 0;
    size_t marker = strlen(s->marker);
    while ((at = memmem(at, end - at, s->marker, marker))) {
        seen++;
        at += marker;
    }
    return seen == s->count;
}
