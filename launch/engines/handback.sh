#!/bin/bash
# A finished job on a live slice bills on.  handback.sh NAME ZONE [over] is what systemd calls after every end of the
# job on every host: host 0 deletes the slice after 0, any host after 1 or 2, and at the limit of starts (`over`).
# 42 and what a killed process leaves are started again, and SIGTERM from systemd is the host going down.
name=$1 zone=$2 why=${3:-}
host=${TPU_WORKER_ID:-}
if [ -z "$host" ]; then
    host=$(curl -sf -H 'Metadata-Flavor: Google' \
        http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number)
fi
over=no
if [ "$why" = over ]; then
    over=yes
elif [ "${EXIT_CODE:-}" = exited ]; then
    case "${EXIT_STATUS:-}" in
    0) [ "$host" = 0 ] && over=yes ;;
    1 | 2) over=yes ;;
    esac
fi
if [ "$over" = yes ]; then
    echo "jaxdiff: over (${EXIT_STATUS:-limit of starts} on host $host), $name is deleted"
    gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet --async
fi
exit 0
