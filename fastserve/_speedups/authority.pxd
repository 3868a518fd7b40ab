# uri-host [ ":" port ], strictly (RFC 3986 section 3.2): in a Host, a target, and wherever a
# proxy names one. Nothing is read outside of [p, end).

# Whether all of [p, end) is an authority that names a host; userinfo is refused.
cdef bint is_authority(const char* p, const char* end, bint port_required) noexcept nogil
