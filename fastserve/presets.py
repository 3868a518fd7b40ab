"""Defaults for a situation: `--behind PROXY`, and `fastserve dev`.

What a well-known proxy in front needs, as defaults that every flag overrides.
A preset believes exactly the fields that its proxy writes itself: one that it passes on as
the client sent it would be the client's word. Who may speak for the proxy is in each preset
too: programs on this machine, private networks, or published ranges. A connection is kept
for longer than the proxy keeps it, so that the proxy never sends a request into a closing
one (which it would answer with 502).
"""

from __future__ import annotations

from typing import Any

LOCAL = "127.0.0.0/8,::1,unix"
# RFC 1918, RFC 6598 (carriers and clouds), RFC 4193, and this machine
PRIVATE = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7," + LOCAL
# https://www.cloudflare.com/ips-v4 and ips-v6; they have not changed since 2021-04
CLOUDFLARE = (
    "173.245.48.0/20,103.21.244.0/22,103.22.200.0/22,103.31.4.0/22,141.101.64.0/18,"
    "108.162.192.0/18,190.93.240.0/20,188.114.96.0/20,197.234.240.0/22,198.41.128.0/17,"
    "162.158.0.0/15,104.16.0.0/13,104.24.0.0/14,172.64.0.0/13,131.0.72.0/22,"
    "2400:cb00::/32,2606:4700::/32,2803:f800::/32,2405:b500::/32,2405:8100::/32,"
    "2a06:98c0::/29,2c0f:f248::/32"
)

PRESETS: dict[str, dict[str, Any]] = {
    "nginx": {      # keepalive_timeout of an upstream is 60 s
        "forwarded_allow_ips": LOCAL,
        "forwarded_headers": "x-forwarded-for,x-forwarded-proto",
        "keep_alive_timeout_s": 75.0,
    },
    "haproxy": {    # pool-purge-delay is 5 s, timeout http-keep-alive the user's
        "forwarded_allow_ips": LOCAL,
        "forwarded_headers": "x-forwarded-for,x-forwarded-proto",
        "keep_alive_timeout_s": 75.0,
    },
    "aws-alb": {    # idle_timeout is 60 s
        "forwarded_allow_ips": PRIVATE,
        "forwarded_headers": "x-forwarded-for,x-forwarded-proto,x-forwarded-port",
        "keep_alive_timeout_s": 75.0,
    },
    "aws-nlb": {    # flows are forgotten after 350 s
        "proxy_protocol": "required",
        "proxy_allow_ips": PRIVATE,
        "keep_alive_timeout_s": 360.0,
    },
    "cloudflare": {     # idle connections to an origin are kept for 900 s
        "forwarded_allow_ips": CLOUDFLARE,
        "forwarded_headers": "cf-connecting-ip,x-forwarded-proto",
        "keep_alive_timeout_s": 915.0,
    },
    "traefik": {    # idleConnTimeout is 90 s
        "forwarded_allow_ips": PRIVATE,
        "forwarded_headers": "x-forwarded-for,x-forwarded-proto,x-forwarded-host,x-forwarded-port",
        "keep_alive_timeout_s": 105.0,
    },
}

# What `fastserve dev` has for those that nobody gave; a flag, a variable or the file wins.
DEV_DEFAULTS: dict[str, Any] = {
    "workers": 1, "log_level": "debug", "graceful_timeout_s": 1.0, "boot_timeout_s": 30.0}
# What makes no sense there, wherever it was given.
NOT_IN_DEV: dict[str, Any] = {
    "preload": False, "drain_delay_s": 0.0, "canary": 0, "canary_s": 20.0}
