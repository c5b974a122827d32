# Sourced by scripts/demo and scripts/test: makes .venv if absent and installs Likeness with the given extras.
# Does nothing when pyproject.toml and scripts/constraints.txt are those of the last time.
#   setup media test

setup() {
    local extras stamp wanted python
    extras=$(IFS=,; echo "$*")
    if [ ! -x .venv/bin/python ]; then
        python=$(command -v python3 || true)
        if [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            echo "Python 3.11 or newer is needed, python3 is $("$python" --version 2>&1 || echo missing)." >&2
            return 1
        fi
        echo "Making .venv ..."
        "$python" -m venv .venv
    fi
    stamp=".venv/.likeness-$extras"
    wanted=$(cat pyproject.toml scripts/constraints.txt | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "Installing Likeness and what it needs (a few minutes the first time; PyTorch is the large part) ..."
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint scripts/constraints.txt --editable ".[$extras]"
        echo "$wanted" > "$stamp"
    fi
}
