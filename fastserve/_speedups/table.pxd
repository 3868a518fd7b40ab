# A hash table of bytes, filled once at start-up and only read afterwards. All of it is inline.
#
# Open addressing, linear probing, at most half full. Only routes are ever inserted, so
# a client cannot make a table worse than it was at start-up: no secret seed is needed.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef struct Slot:
    uint64_t hash
    const char* key         # inside a bytes object that outlives the table; NULL: empty
    Py_ssize_t size
    void* value             # borrowed, too

cdef struct Table:          # of zeros: without a key, and without slots
    Slot* slots             # owned; NULL: no keys at all
    uint64_t mask           # number of slots, a power of two, less one

cdef inline uint64_t mix(uint64_t hash, uint64_t word) noexcept nogil:
    hash = (hash ^ word) * <uint64_t>0x9E3779B97F4A7C15
    return hash ^ (hash >> 32)      # the product's best bits are the high ones; the mask takes low

cdef inline uint64_t digest(const char* key, Py_ssize_t size) noexcept nogil:
    # Eight bytes at a time. The last word overlaps the one before it rather than reading
    # past the end; short keys are read in two halves that may overlap.
    cdef uint64_t hash = mix(<uint64_t>0xD6E8FEB86659FD93, <uint64_t>size)
    cdef uint64_t word
    cdef uint32_t low, high
    cdef Py_ssize_t at = 0
    if size >= 8:
        while at <= size - 8:
            memcpy(&word, key + at, 8)
            hash = mix(hash, word)
            at += 8
        if at < size:
            memcpy(&word, key + size - 8, 8)
            hash = mix(hash, word)
    elif size >= 4:
        memcpy(&low, key, 4)
        memcpy(&high, key + size - 4, 4)
        hash = mix(hash, (<uint64_t>high << 32) | low)
    elif size > 0:
        hash = mix(hash, (<uint64_t><uint8_t>key[0] << 16)
                   | (<uint64_t><uint8_t>key[size >> 1] << 8) | <uint8_t>key[size - 1])
    # Once more: keys that differ in their last bytes only ("/items1", "/items2") differ in the
    # highest bits of the word, and one multiplication and fold brings those half-way down.
    return mix(hash, 0)

# The value of a key, or NULL.
cdef inline void* look_up(const Table* table, const char* key, Py_ssize_t size) noexcept nogil:
    cdef uint64_t hash, at
    cdef const Slot* slot
    if table.slots is NULL:
        return NULL
    hash = digest(key, size)
    at = hash & table.mask
    while True:             # half of the slots are empty, so this ends
        slot = &table.slots[at]
        if slot.key is NULL:
            return NULL
        if slot.hash == hash and slot.size == size and memcmp(slot.key, key, <size_t>size) == 0:
            return slot.value
        at = (at + 1) & table.mask

# Make room for so many keys: once, before the first insert().
cdef inline int open_table(Table* table, Py_ssize_t keys) except -1:
    cdef Py_ssize_t slots = 2
    if keys == 0:
        return 0
    while slots < 2 * keys:
        slots *= 2
    table.slots = <Slot*>PyMem_Calloc(slots, sizeof(Slot))
    if table.slots is NULL:
        raise MemoryError
    table.mask = <uint64_t>(slots - 1)
    return 0

cdef inline void close_table(Table* table) noexcept:
    PyMem_Free(table.slots)
    table.slots = NULL

# The key is new, and its owner outlives the table.
cdef inline void insert(Table* table, bytes key, void* value) noexcept:
    cdef const char* text = PyBytes_AS_STRING(key)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(key)
    cdef uint64_t hash = digest(text, size)
    cdef uint64_t at = hash & table.mask
    while table.slots[at].key is not NULL:
        at = (at + 1) & table.mask
    table.slots[at].hash = hash
    table.slots[at].key = text
    table.slots[at].size = size
    table.slots[at].value = value

# The slots that the unluckiest look-up of any key reads: the longest run of used ones,
# and the empty one that ends it.
cdef inline Py_ssize_t longest_probe(const Table* table) noexcept:
    cdef Py_ssize_t run = 0, longest = 0
    cdef uint64_t at
    if table.slots is NULL:
        return 0
    for at in range(2 * (table.mask + 1)):      # twice around: a run may cross the end
        run = 0 if table.slots[at & table.mask].key is NULL else run + 1
        longest = max(longest, run)
    return longest + 1
