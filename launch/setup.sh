#!/bin/bash
# Makes the environment of a host: launch/setup.sh tpu|cuda|cpu, in the folder of the code.  A second call does nothing.
# pip tries the network again itself; versions are those that were tried (launch/pins.txt).
set -euo pipefail
extra=${1:?tpu, cuda or cpu}
cd "$(dirname "$0")/.."
case $extra in tpu | cuda) what=".[$extra]" ;; cpu) what=. ;; *) echo "setup.sh: tpu, cuda or cpu, not $extra" >&2; exit 2 ;; esac

# A site's own environment is left as it is.
python3 -c 'import clu, flax, grain, jax, ml_collections, optax, orbax.checkpoint' 2>/dev/null && exit 0

exec 9>.setup.lock
flock 9 2>/dev/null || true # several hosts, one disk
[ -e .venv/.jaxdiff-ready ] && exit 0
python=
for each in python3.12 python3.11 python3; do
    if "$each" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$each
        break
    fi
done
if [ -n "$python" ]; then
    "$python" -m venv --clear .venv
else # the images of TPU hosts have Python 3.10
    python3 -m pip install --quiet --user --retries 10 uv
    python3 -m uv venv --quiet --seed --python 3.12 .venv
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --retries 10 --timeout 60 \
    --constraint launch/pins.txt --editable "$what"
touch .venv/.jaxdiff-ready
