#!/bin/sh
# Makes .env of .env.example where there is none, readable for its owner alone, and gives the passwords
# that compose asks for a random value where they have none. What is set stays as it is.
# usage: env.sh
set -eu
umask 077
cd "$(dirname "$0")/.."

[ -e .env ] || { cat .env.example >.env; echo "made .env of .env.example"; }
chmod go= .env
for name in KAFKA_UI_PASSWORD GRAFANA_PASSWORD REDIS_PASSWORD; do
  ! grep -Eq "^$name=[^[:space:]#]" .env || continue
  password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
  # In place of the first line with the name, commented out or empty; at the end where there is none.
  awk -v name="$name" -v line="$name=$password" '
    !done && $0 ~ "^#?" name "=" { print line; done = 1; next }
    { print }
    END { if (!done) print line }' .env >.env.new
  cat .env.new >.env # the file keeps its owner, and a link stays a link
  rm .env.new
  echo "set $name in .env"
done
