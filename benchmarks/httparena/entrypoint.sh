#!/bin/sh
# Plain HTTP on 8080, TLS on 8081 where there is a certificate, one worker for each processor.
set -eu

# Several workers agree on what they keep through Redis. Where the database is there and no Redis
# was named, one of our own takes its place.
if [ -n "${DATABASE_URL:-}" ] && [ -z "${REDIS_URL:-}" ]; then
    redis-server --port 0 --unixsocket /tmp/redis.sock --save '' --appendonly no --daemonize yes
    export REDIS_URL=unix:///tmp/redis.sock
fi

cert=${TLS_CERT:-/certs/server.crt} key=${TLS_KEY:-/certs/server.key}
if [ -r "$cert" ] && [ -r "$key" ]; then
    exec fastserve run app.py --workers auto --bind 0.0.0.0:8081 --plain-bind 0.0.0.0:8080 \
        --ssl-certfile "$cert" --ssl-keyfile "$key"
fi
exec fastserve run app.py --workers auto --bind 0.0.0.0:8080
