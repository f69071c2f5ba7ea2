#!/usr/bin/env bash
# The compose file as a user runs it, with a default compression and with the proxies that a Docker client may set in
# containers: builds the images, starts the cluster, captions from outside, checks users and sizes, scales the workers,
# kills the one that answers and then the gateway, captions again after each, and takes everything down, also after a
# failure.
#   COMPOSE   what runs the file: "docker compose" (default), or another command that takes the same arguments
#   ENGINE    what knows its containers: docker or podman (default: by COMPOSE)
#   BUILD     0 leaves out building, for images that are there
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra compose <<<"${COMPOSE:-docker compose}"
if [ -z "${ENGINE:-}" ]; then
  case ${compose[*]} in docker*) ENGINE=docker ;; *) ENGINE=podman ;; esac
fi
visionsplit=${VISIONSPLIT:-.venv/bin/visionsplit}
project=visionsplit-test
image=models/samples/signs.png
# Any free port: a cluster may be running here already.
export ENCODER_PORT=
export COMPRESSION=globalcom2 # and no RETENTION_RATIO: a documented default holds
# What the Docker client does by its configuration file, whatever runs the compose file here. No proxy is at this address.
proxies=$(mktemp)
printf 'services:\n' >"$proxies"
for service in encoder ray-head llm-worker llm-gateway; do
  printf '  %s:\n    environment:\n' "$service" >>"$proxies"
  for name in http_proxy https_proxy HTTP_PROXY HTTPS_PROXY grpc_proxy; do
    printf '      %s: http://127.0.0.1:9\n' "$name" >>"$proxies"
  done
  # Where one limit is set, podman raises that of processes to the kernel's maximum, which not every host allows.
  [ "$ENGINE" = docker ] || printf '    ulimits: { nproc: 16384 }\n' >>"$proxies"
done
compose+=(-p "$project" -f docker-compose.yml -f "$proxies")

say() { printf '\n== %s\n' "$*"; }

in_service() { # SERVICE COMMAND...: in each of its containers; fails if none runs
  local id ids
  ids=$(containers "$1")
  shift
  [ -n "$ids" ] || return 1
  for id in $ids; do "$ENGINE" exec "$id" "$@" || return 1; done
}

containers() { # ids of a service's running containers
  "$ENGINE" ps --quiet --filter "label=com.docker.compose.project=$project" \
    --filter "label=com.docker.compose.service=$1"
}

until_true() { # SECONDS WHAT COMMAND...
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "$what did not happen in time" >&2; return 1; }
    sleep 2
  done
  echo "$what"
}

caption() { "$visionsplit" caption --encoder "$encoder" --ratio 0.25 "$@" "$image"; }

replica_pid() { # CONTAINER: nothing if it has none
  "$ENGINE" exec "$1" python -c \
    'import psutil; print(*[p.pid for p in psutil.process_iter() if "".join(p.cmdline()).startswith("ray::ServeReplica")])'
}

holds_replica() { [ -n "$(replica_pid "$1")" ]; }

replica_elsewhere() {
  local id
  for id in $(containers llm-worker); do if holds_replica "$id"; then return 0; fi; done
  return 1
}

two_workers() { [ "$(containers llm-worker | wc -l)" -eq 2 ] && in_service llm-worker python -c "$raylet_health"; }
raylet_health="import urllib.request as r; r.urlopen('http://127.0.0.1:6384/api/local_raylet_healthz', timeout=5)"

finish() {
  status=$?
  trap - EXIT INT TERM
  if [ "$status" -ne 0 ]; then
    say "failed; the last lines of the logs"
    for service in encoder ray-head llm-worker llm-gateway; do
      "${compose[@]}" logs --tail 15 "$service" 2>&1 || true
    done
  fi
  say "taking everything down"
  # podman-compose takes down only as many containers of a service as the file says.
  containers llm-worker | xargs --no-run-if-empty "$ENGINE" rm --force >/dev/null 2>&1 || true
  "${compose[@]}" down --volumes --timeout 60 >/dev/null 2>&1 || echo "compose down failed" >&2
  left=$("$ENGINE" ps --all --quiet --filter "label=com.docker.compose.project=$project" | wc -l)
  rm -f "$proxies"
  [ "$left" -eq 0 ] || { echo "$left containers are left" >&2; status=1; }
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

if [ "${BUILD:-1}" != 0 ]; then
  say "building"
  # One by one: the second image begins with the layers of the first, and the others are the second.
  "${compose[@]}" build encoder
  "${compose[@]}" build llm-gateway
fi
"$ENGINE" images --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep visionsplit-

say "starting"
"${compose[@]}" up -d
port=$("${compose[@]}" port encoder 50051 | tail -1)
encoder=127.0.0.1:${port##*:}
until_true 240 "the encoder answers on the host at $encoder" "$visionsplit" health "$encoder"
until_true 300 "the LLM service takes calls" in_service llm-gateway visionsplit health 127.0.0.1:50052
caption
"$visionsplit" info --encoder "$encoder" | grep -F "default: globalcom2 at 0.25," ||
  { echo "the default compression is not the one that the environment asked for" >&2; exit 1; }
in_service encoder visionsplit health 127.0.0.1:50051 || { echo "the encoder's health check fails" >&2; exit 1; }
for service in ray-head llm-worker; do
  in_service "$service" python -c "$raylet_health" || { echo "the health check of $service fails" >&2; exit 1; }
  in_service "$service" sh -c '[ "$http_proxy" = http://127.0.0.1:9 ]' || { echo "$service has no proxy" >&2; exit 1; }
done
in_service llm-gateway python -c "import urllib.request as r
for page in ('encoder:9051', 'llm-gateway:9052'):
    assert b'visionsplit_' in r.urlopen(f'http://{page}/metrics', timeout=10).read(), page"

say "users and privileges"
for service in encoder ray-head llm-worker llm-gateway; do
  user=$(in_service "$service" id -u)
  echo "$service runs as user $user"
  [ "$user" -ne 0 ]
  in_service "$service" sh -c '! command -v gcc cc make git >/dev/null' || { echo "build tools in $service" >&2; exit 1; }
done

say "two workers"
"${compose[@]}" up -d --no-recreate --scale llm-worker=2
until_true 120 "two workers have joined" two_workers
for id in $(containers llm-worker); do if holds_replica "$id"; then victim=$id; fi; done
say "killing the worker with the replica, ${victim:?no worker holds a replica}"
"$ENGINE" kill "$victim" >/dev/null
until_true 180 "the other worker has a replica" replica_elsewhere
until_true 120 "the LLM service takes calls again" in_service llm-gateway visionsplit health 127.0.0.1:50052
until_true 60 "a caption comes again" caption

say "killing the gateway"
for id in $(containers llm-worker); do if holds_replica "$id"; then holder=$id; fi; done
replica=$(replica_pid "${holder:?no worker holds a replica}")
containers llm-gateway | xargs "$ENGINE" kill >/dev/null
"${compose[@]}" up -d --no-recreate llm-gateway
until_true 120 "the LLM service takes calls again" in_service llm-gateway visionsplit health 127.0.0.1:50052
[ "$(replica_pid "$holder")" = "$replica" ] || { echo "the replica was not taken over" >&2; exit 1; }
until_true 60 "a caption comes from the replica that stayed" caption
say "passed"
