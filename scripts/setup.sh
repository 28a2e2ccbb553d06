#!/bin/sh
# Create .venv from requirements.lock, with hashes verified. Called by make in the repository root.
set -eu

works() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys, venv, ensurepip
sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
}

if ! [ -x .venv/bin/python ] || ! works .venv/bin/python; then
    python=
    for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python; do
        if works "$candidate"; then python=$candidate; break; fi
    done
    if [ -z "$python" ]; then
        echo "error: Python 3.11, 3.12 or 3.13 (with venv) is not on PATH; install it, or set its path:" \
            "make setup PYTHON=/path/to/python" >&2
        exit 1
    fi
    rm -rf .venv
    "$python" -m venv .venv
fi
# uv is in a separate folder, because it removes packages that the lock file does not contain.
if ! [ -x .venv/uv/bin/uv ] || ! cmp -s requirements-uv.lock .venv/uv/installed.lock; then
    rm -rf .venv/uv
    .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
        --no-deps --only-binary :all: --target .venv/uv -r requirements-uv.lock
    cp requirements-uv.lock .venv/uv/installed.lock
fi
echo "setting up .venv (about 6.3 GiB; the first time downloads about 3 GB) ..."
.venv/uv/bin/uv pip sync --quiet --compile-bytecode --python .venv/bin/python --require-hashes requirements.lock
# The command `episodic` of this checkout, from any folder.
cat > .venv/bin/episodic <<EOF
#!/bin/sh
PYTHONPATH="$PWD\${PYTHONPATH:+:\$PYTHONPATH}" exec "$PWD/.venv/bin/python" -P -m episodic "\$@"
EOF
chmod +x .venv/bin/episodic
# DVC's site cache (known hashes) is kept in the checkout. Its path must be absolute.
if [ -d .dvc ]; then
    .venv/bin/dvc config --quiet --local core.site_cache_dir "$PWD/.dvc/tmp/site-cache"
fi
touch .venv/.synced
