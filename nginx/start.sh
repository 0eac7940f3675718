#!/bin/sh
# nginx in front of the gateways: the container's entry point, and the way to run it without a container:
#   LISTEN=127.0.0.1:8080 GATEWAYS="127.0.0.1:8001 127.0.0.1:8002" RUN_DIR=.run/nginx nginx/start.sh
# Arguments go to nginx (-t checks the configuration). SIGQUIT ends it when the running requests have ended.
#
# LISTEN (8080)                   port, or address:port
# GATEWAYS (main:8000)            host:port with spaces between; a name is looked up again all the time, for all its
#                                 addresses (nginx 1.27.3 and later), so gateways may come and go
# MAX_BODY_BYTES (16777216), REQUEST_TIMEOUT_SECONDS (540)       as the gateways have them
# CLIENT_CONNECTIONS (512)        requests that one client address may have open at once; 0: any number
# PROXIES_IN_FRONT ()             proxies in front of this one, whose X-Forwarded-For names the client: addresses or
#                                 networks, with spaces between
# CHECK_KEY_BEFORE_BODY (0)       1: a body of 100,000 bytes and more, or of unknown length, is only read after a gateway
#                                 has accepted the request's key
# RUN_DIR (/tmp/nginx)            rendered configuration, pid, bodies on their way
set -eu
HERE=$(cd "$(dirname "$0")" && pwd)
RUN_DIR=${RUN_DIR:-/tmp/nginx}

servers= resolver=
for gateway in ${GATEWAYS:-main:8000}; do
  case ${gateway%:*} in
    \[*) resolve= ;; # an IPv6 address
    *[!0-9.]*) resolve=' resolve' resolver=needed ;;
    *) resolve= ;;
  esac
  servers="$servers server $gateway$resolve max_fails=0;"
done
if [ -n "$resolver" ]; then
  addresses=$(awk '$1 == "nameserver" { print $2 ~ /:/ ? "[" $2 "]" : $2 }' /etc/resolv.conf | tr '\n' ' ')
  resolver="resolver ${addresses}valid=2s;"
fi

connections=${CLIENT_CONNECTIONS:-512} limit=
[ "$connections" -eq 0 ] || limit="limit_conn clients $connections;"
key_check=
[ "${CHECK_KEY_BEFORE_BODY:-0}" = 0 ] || key_check='auth_request /nginx-key-check;'

real_ip=
for proxy in ${PROXIES_IN_FRONT:-}; do real_ip="$real_ip set_real_ip_from $proxy;"; done
[ -z "$real_ip" ] || real_ip="$real_ip real_ip_header X-Forwarded-For; real_ip_recursive on;"

timeout=${REQUEST_TIMEOUT_SECONDS:-540} # nginx takes whole seconds
mkdir -p "$RUN_DIR"
chmod 755 "$RUN_DIR" # nginx's workers have another user when root starts it
sed -e "s|\${LISTEN}|${LISTEN:-8080}|" \
    -e "s|\${GATEWAYS}|$servers|" \
    -e "s|\${RESOLVER}|$resolver|" \
    -e "s|\${MAX_BODY_BYTES}|${MAX_BODY_BYTES:-16777216}|" \
    -e "s|\${CLIENT_CONNECTIONS}|$connections|" \
    -e "s|\${CLIENT_LIMIT}|$limit|" \
    -e "s|\${KEY_CHECK}|$key_check|" \
    -e "s|\${REAL_IP}|$real_ip|" \
    -e "s|\${REQUEST_TIMEOUT_SECONDS}|${timeout%.*}|" \
    "$HERE/nginx.conf.template" >"$RUN_DIR/nginx.conf"
exec nginx -p "$RUN_DIR" -e stderr -c nginx.conf "$@"
