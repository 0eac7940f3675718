#!/usr/bin/env bash
# A real single-node Kafka (KRaft) without containers: Maven brings the broker's jars, Java runs them.
# usage: kafka.sh install|start|stop|kill|status     needs java 17+ and mvn
#
# KAFKA_HOME_DIR (default .kafka) holds jars and data; KAFKA_PORT (9093) and KAFKA_CONTROLLER_PORT (KAFKA_PORT + 1)
# are its ports on 127.0.0.1; KAFKA_DATA (default KAFKA_HOME_DIR/data-KAFKA_PORT) is kept between starts.
# KAFKA_EXTRA_PROPERTIES are further lines of server.properties, which win over ours: other listeners, TLS, SASL.
set -euo pipefail
HERE=$(cd "$(dirname "$0")/.." && pwd)
HOME_DIR=$(realpath -m "${KAFKA_HOME_DIR:-$HERE/.kafka}")
PORT=${KAFKA_PORT:-9093}
CONTROLLER=${KAFKA_CONTROLLER_PORT:-$((PORT + 1))}
DATA=$(realpath -m "${KAFKA_DATA:-$HOME_DIR/data-$PORT}")
VERSION=4.3.1
LIBS=$HOME_DIR/libs-$VERSION
PID_FILE=$DATA/broker.pid

say() { echo "kafka.sh: $*" >&2; }
die() { say "$*"; exit 1; }
running() { [ -f "$PID_FILE" ] && kill -0 "$(cat "$PID_FILE")" 2>/dev/null; }

install() {
  [ -f "$LIBS/.complete" ] && return
  command -v java >/dev/null || die "java is not on the PATH (Debian: apt-get install default-jre-headless)"
  command -v mvn >/dev/null || die "mvn is not on the PATH (Debian: apt-get install maven)"
  mkdir -p "$LIBS"
  cat > "$HOME_DIR/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>kafka-jars</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$VERSION</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
POM
  say "fetching Kafka $VERSION by Maven"
  mvn -q -B -f "$HOME_DIR/pom.xml" dependency:copy-dependencies -DoutputDirectory="$LIBS" >&2
  touch "$LIBS/.complete"
}

configure() {
  mkdir -p "$DATA"
  cat > "$DATA/server.properties" <<CONF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$PORT,CONTROLLER://127.0.0.1:$CONTROLLER
advertised.listeners=PLAINTEXT://127.0.0.1:$PORT
controller.listener.names=CONTROLLER
log.dirs=$DATA/log
auto.create.topics.enable=false
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.consumer.session.timeout.ms=6000
group.consumer.min.session.timeout.ms=1000
group.consumer.heartbeat.interval.ms=500
group.consumer.min.heartbeat.interval.ms=100
group.min.session.timeout.ms=1000
${KAFKA_EXTRA_PROPERTIES:-}
CONF
  [ -f "$DATA/log/meta.properties" ] || java -cp "$LIBS/*" kafka.tools.StorageTool format \
    -t 5L6g3nShT-eMCtK--X86sw -c "$DATA/server.properties" >"$DATA/format.log" 2>&1 || die "format failed, see $DATA/format.log"
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; }

start() {
  running && { say "already running, pid $(cat "$PID_FILE")"; return; }
  listening && die "something else listens on 127.0.0.1:$PORT"
  install
  configure
  setsid bash -c 'exec java -Xms256m -Xmx768m -XX:+UseSerialGC -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
    -cp "$1/*" kafka.Kafka "$2"' _ "$LIBS" "$DATA/server.properties" >>"$DATA/broker.log" 2>&1 </dev/null &
  echo $! >"$PID_FILE"
  for _ in $(seq 300); do
    listening && { say "listening on 127.0.0.1:$PORT, pid $(cat "$PID_FILE")"; return; }
    running || { tail -20 "$DATA/broker.log" >&2; die "the broker ended"; }
    sleep 0.2
  done
  die "not listening after 60 s, see $DATA/broker.log"
}

stop() {
  running || { say "not running"; rm -f "$PID_FILE"; return; }
  local pid; pid=$(cat "$PID_FILE")
  kill "-${1:-TERM}" "$pid"
  for _ in $(seq 150); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
  kill -0 "$pid" 2>/dev/null && kill -KILL "$pid"
  rm -f "$PID_FILE"
  say stopped
}

case "${1:-}" in
  install) install ;;
  start) start ;;
  stop) stop TERM ;;
  kill) stop KILL ;;
  status) running && say "running, pid $(cat "$PID_FILE")" || { say "not running"; exit 1; } ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
