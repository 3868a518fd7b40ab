# What bytes may stand where, and fast ways to find the first that may not.
#
# Everything reads inside [p, end) only. On x86-64 sixteen bytes are looked at at once, by
# SSE2, which every such processor has; elsewhere eight, in a register.

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSE2__) && !defined(FASTSERVE_NO_SIMD)
    #include <emmintrin.h>
    #define FS_SSE2 1
    #endif

    /* What a byte may be part of. The sets are those of RFC 9110 section 5.6.2 (token),
       section 5.5 (field value) and RFC 3986 section 3.2.2 (reg-name, less the comma:
       in a Host it means that somebody merged two). "#" is in no request target. */
    enum { FS_TOKEN = 1, FS_TARGET = 2, FS_VALUE = 4, FS_HOST = 8, FS_HEX = 16, FS_DIGIT = 32 };
    /* FS_TOKEN's letters and "-": the bytes of nearly every field name. */
    #define FS_PLAIN 64
    /* What is no plain byte of a query: "&" and "=", "%" and "+". */
    #define FS_QUERY 128

    #define FS_G  (FS_TARGET | FS_VALUE)
    #define FS_GT (FS_G | FS_TOKEN)
    #define FS_GH (FS_G | FS_HOST)
    #define FS_GTH (FS_GT | FS_HOST)
    #define FS_L  (FS_GTH | FS_PLAIN)
    #define FS_X  (FS_GTH | FS_HEX)
    #define FS_LX (FS_L | FS_HEX)
    static const uint8_t fs_class[256] = {
        ['\\t'] = FS_VALUE, [' '] = FS_VALUE, ['!'] = FS_GTH, ['"'] = FS_G,
        ['#'] = FS_TOKEN | FS_VALUE, ['$'] = FS_GTH, ['%'] = FS_GT | FS_QUERY,
        ['&'] = FS_GTH | FS_QUERY, ['\\''] = FS_GTH, ['('] = FS_GH, [')'] = FS_GH,
        ['*'] = FS_GTH, ['+'] = FS_GTH | FS_QUERY, [','] = FS_G, ['-'] = FS_L,
        ['.'] = FS_GTH, ['/'] = FS_G,
        ['0' ... '9'] = FS_X | FS_DIGIT, [':'] = FS_G, [';'] = FS_GH, ['<'] = FS_G,
        ['='] = FS_GH | FS_QUERY, ['>' ... '@'] = FS_G, ['A' ... 'F'] = FS_LX,
        ['G' ... 'Z'] = FS_L, ['[' ... ']'] = FS_G, ['^'] = FS_GT, ['_'] = FS_GTH, ['`'] = FS_GT,
        ['a' ... 'f'] = FS_LX, ['g' ... 'z'] = FS_L, ['{'] = FS_G, ['|'] = FS_GT,
        ['}'] = FS_G, ['~'] = FS_GTH, [0x80 ... 0xff] = FS_VALUE,
    };

    static inline int fs_is(char byte, int set) {
        return fs_class[(uint8_t)byte] & set;
    }

    /* The first byte in [p, end) that is not in the set, or end. */
    static inline const char *fs_skip(const char *p, const char *end, int set) {
        for (; end - p >= 4; p += 4) { /* one bound for four bytes: names are short and many */
            if (!fs_is(p[0], set)) return p;
            if (!fs_is(p[1], set)) return p + 1;
            if (!fs_is(p[2], set)) return p + 2;
            if (!fs_is(p[3], set)) return p + 3;
        }
        while (p < end && fs_is(*p, set)) p++;
        return p;
    }

    /* The first byte in [p, end) that is in the set, or end. */
    static inline const char *fs_find_any(const char *p, const char *end, int set) {
        while (p < end && !fs_is(*p, set)) p++;
        return p;
    }

    /* The value of a hexadecimal digit, or -1. */
    static inline int fs_hex_value(char byte) {
        if (!fs_is(byte, FS_HEX)) return -1;
        return byte <= '9' ? byte - '0' : (byte | 0x20) - 'a' + 10;
    }

    /* Whether n bytes at p are the word, case-insensitively; n is a constant >= 4. The word
       is lower-case letters, digits and "-". Setting bit 5 makes capitals small; the other
       bytes it could turn into these are controls, which no caller's bytes hold. */
    static inline int fs_same4(const char *p, const char *word) {
        uint32_t a, b;
        memcpy(&a, p, 4);
        memcpy(&b, word, 4);
        return (a | 0x20202020u) == b;
    }
    static inline int fs_same8(const char *p, const char *word) {
        uint64_t a, b;
        memcpy(&a, p, 8);
        memcpy(&b, word, 8);
        return (a | 0x2020202020202020u) == b;
    }
    static inline int fs_same(const char *p, const char *word, size_t n) {
        size_t i;
        if (n < 8) return fs_same4(p, word) && fs_same4(p + n - 4, word + n - 4);
        for (i = 0; i + 8 <= n; i += 8)
            if (!fs_same8(p + i, word + i)) return 0;
        return fs_same8(p + n - 8, word + n - 8);
    }

    /* Four scans over many bytes. Each returns the first byte in [p, end) that stops it, or
       end, and reads nothing outside [p, end).
         fs_skip_letters  stops at what is neither a letter nor "-"
         fs_skip_value    stops at what no field value holds: all controls but HTAB, and DEL;
                          it may read again up to 16 bytes before `end`, which must be there
         fs_skip_target   stops at what no target holds, and at "%" and "?" for the caller
         fs_find          stops at the given byte */
    #ifdef FS_SSE2
    static inline const char *fs_skip_letters(const char *p, const char *end) {
        for (; end - p >= 16; p += 16) {
            __m128i x = _mm_loadu_si128((const __m128i *)p);
            __m128i nth = _mm_sub_epi8(_mm_or_si128(x, _mm_set1_epi8(0x20)), _mm_set1_epi8('a'));
            __m128i letter = _mm_cmpeq_epi8(_mm_min_epu8(nth, _mm_set1_epi8(25)), nth);
            __m128i dash = _mm_cmpeq_epi8(x, _mm_set1_epi8('-'));
            int miss = _mm_movemask_epi8(_mm_or_si128(letter, dash)) ^ 0xffff;
            if (miss) return p + __builtin_ctz((unsigned)miss);
        }
        return fs_skip(p, end, FS_PLAIN);
    }
    static inline unsigned fs_not_in_value(const char *p) {
        __m128i x = _mm_loadu_si128((const __m128i *)p);
        __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8(0x1f)), x);
        __m128i tab = _mm_cmpeq_epi8(x, _mm_set1_epi8(9));
        __m128i del = _mm_cmpeq_epi8(x, _mm_set1_epi8(0x7f));
        return (unsigned)_mm_movemask_epi8(_mm_or_si128(_mm_andnot_si128(tab, low), del));
    }
    static inline const char *fs_skip_value(const char *p, const char *end) {
        unsigned hit;
        for (; end - p >= 16; p += 16) {
            hit = fs_not_in_value(p);
            if (hit) return p + __builtin_ctz(hit);
        }
        if (p == end) return p;
        hit = fs_not_in_value(end - 16) >> (16 - (end - p));
        return hit ? p + __builtin_ctz(hit) : end;
    }
    static inline const char *fs_skip_target(const char *p, const char *end) {
        for (; end - p >= 16; p += 16) {
            __m128i x = _mm_loadu_si128((const __m128i *)p);
            /* signed: bytes from 0x80 are below 0x21 too */
            __m128i stop = _mm_cmplt_epi8(x, _mm_set1_epi8(0x21));
            stop = _mm_or_si128(stop, _mm_cmpeq_epi8(x, _mm_set1_epi8(0x7f)));
            stop = _mm_or_si128(stop, _mm_cmpeq_epi8(x, _mm_set1_epi8('#')));
            stop = _mm_or_si128(stop, _mm_cmpeq_epi8(x, _mm_set1_epi8('?')));
            stop = _mm_or_si128(stop, _mm_cmpeq_epi8(x, _mm_set1_epi8('%')));
            int hit = _mm_movemask_epi8(stop);
            if (hit) return p + __builtin_ctz((unsigned)hit);
        }
        while (p < end && fs_is(*p, FS_TARGET) && *p != '?' && *p != '%') p++;
        return p;
    }
    static inline const char *fs_find(const char *p, const char *end, char byte) {
        for (; end - p >= 16; p += 16) {
            __m128i x = _mm_loadu_si128((const __m128i *)p);
            int hit = _mm_movemask_epi8(_mm_cmpeq_epi8(x, _mm_set1_epi8(byte)));
            if (hit) return p + __builtin_ctz((unsigned)hit);
        }
        while (p < end && *p != byte) p++;
        return p;
    }
    #else
    static inline const char *fs_skip_letters(const char *p, const char *end) {
        return fs_skip(p, end, FS_PLAIN);
    }
    /* Eight bytes at a time: bytes below n (n <= 0x80) and bytes equal to n leave a bit. */
    #define FS_ONES 0x0101010101010101u
    #define FS_BELOW(x, n) (((x) - FS_ONES * (n)) & ~(x) & (FS_ONES << 7))
    #define FS_EQUAL(x, n) FS_BELOW((x) ^ (FS_ONES * (n)), 1)
    static inline const char *fs_skip_value(const char *p, const char *end) {
        while (end - p >= 8) {
            uint64_t x;
            const char *q;
            memcpy(&x, p, 8);
            if (FS_BELOW(x, 0x20) | FS_EQUAL(x, 0x7f)) {
                q = fs_skip(p, p + 8, FS_VALUE); /* it may be a HTAB */
                if (q < p + 8) return q;
            }
            p += 8;
        }
        return fs_skip(p, end, FS_VALUE);
    }
    static inline const char *fs_skip_target(const char *p, const char *end) {
        while (p < end && fs_is(*p, FS_TARGET) && *p != '?' && *p != '%') p++;
        return p;
    }
    static inline const char *fs_find(const char *p, const char *end, char byte) {
        const char *hit = p < end ? memchr(p, byte, (size_t)(end - p)) : NULL;
        return hit ? hit : end;
    }
    #endif
    """
    enum:
        TOKEN "FS_TOKEN"
        TARGET "FS_TARGET"
        VALUE "FS_VALUE"
        HOST "FS_HOST"
        HEX "FS_HEX"
        DIGIT "FS_DIGIT"
        QUERY "FS_QUERY"
    bint is_in "fs_is"(char byte, int set) noexcept nogil
    const char* skip "fs_skip"(const char* p, const char* end, int set) noexcept nogil
    const char* find_any "fs_find_any"(const char* p, const char* end, int set) noexcept nogil
    int hex_value "fs_hex_value"(char byte) noexcept nogil
    const char* skip_letters "fs_skip_letters"(const char* p, const char* end) noexcept nogil
    const char* skip_value "fs_skip_value"(const char* p, const char* end) noexcept nogil
    const char* skip_target "fs_skip_target"(const char* p, const char* end) noexcept nogil
    const char* find "fs_find"(const char* p, const char* end, char byte) noexcept nogil
    bint same "fs_same"(const char* p, const char* word, size_t n) noexcept nogil

cdef extern from "<strings.h>":
    int strncasecmp(const char* a, const char* b, size_t n) noexcept nogil

# The value of the first field of this name among the lines from p to end, which have been read
# as fields already; NULL without one. `size` is that of the value, without the space around it.
cdef inline const char* find_field(const char* p, const char* end, const char* name,
                                   Py_ssize_t name_size, Py_ssize_t* size) noexcept nogil:
    cdef const char* line_end
    while p < end:
        line_end = find(p, end, c"\n")
        if line_end - p > name_size and p[name_size] == c":" and (
                strncasecmp(p, name, <size_t>name_size) == 0):
            p += name_size + 1
            while p < line_end and (p[0] == c" " or p[0] == c"\t"):
                p += 1
            while line_end > p and is_space(line_end[-1]):
                line_end -= 1
            size[0] = line_end - p
            return p
        p = line_end + 1
    return NULL

cdef inline bint is_space(char byte) noexcept nogil:
    return byte == c" " or byte == c"\t" or byte == c"\r"
