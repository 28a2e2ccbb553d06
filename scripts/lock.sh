#!/bin/sh
# Update both lock files from pyproject.toml (all extras except peers and ray): with hashes, for
# Linux and Apple silicon, without index URLs.
set -eu
uv=.venv/uv/bin/uv
options="--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --quiet"
# shellcheck disable=SC2086
$uv pip compile $options --extra pipeline --extra dev --upgrade -o requirements.lock pyproject.toml
# shellcheck disable=SC2086
sed -n 's/^uv==.*/&/p' requirements-uv.lock | sed 's/ .*//' | $uv pip compile $options -o requirements-uv.lock -
