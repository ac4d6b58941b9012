# What installs programs that are measured: `servers/run` and `peers/run` take it in. `home` is the directory
# for all that does not come from Debian.

is_there() { # PROGRAM
    local PATH=$PATH:/usr/sbin:/sbin
    case $1 in
    ensurepip) /usr/bin/python3 -c 'import ensurepip' 2>/dev/null ;;
    uwsgi-python) compgen -G '/usr/lib/uwsgi/plugins/python3*_plugin.so' >/dev/null ;;
    nginx-stream) [[ -e /usr/lib/nginx/modules/ngx_stream_module.so ]] ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

# Of lines PROGRAM PACKAGE, the packages whose programs are missing.
missing_packages() { # LINES
    local program package
    while read -r program package; do
        is_there "$program" || echo "$package"
    done <<<"$1"
}

# As root, installs these; else names them, and fails.
install_packages() { # PACKAGE...
    [[ $# -gt 0 ]] || return 0
    if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
        echo "Missing, and not installed without root and apt-get: $*." >&2
        return 1
    fi
    apt-get -qq update
    # Servers that Debian would start now are not to be: what measures them starts them.
    local policy=/usr/sbin/policy-rc.d is_ours= status=0
    if [[ ! -e $policy ]]; then
        is_ours=yes
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends "$@" >"$home/apt.log" 2>&1 || status=$?
    [[ ! $is_ours ]] || rm -f "$policy"
    [[ $status -eq 0 ]] || tail -n 20 "$home/apt.log" >&2
    return "$status"
}

# Does what is to be done once for each content of a file.
once() { # NAME FILE COMMAND...
    local stamp=$home/$1.stamp file=$2
    shift 2
    cmp -s "$file" "$stamp" && return
    "$@"
    cp "$file" "$stamp"
}

from_pypi() { # FILE
    [[ -x $home/python/bin/pip ]] || /usr/bin/python3 -m venv "$home/python"
    "$home/python/bin/pip" install --quiet --disable-pip-version-check --requirement "$1"
}

from_npm() { # FILE
    mkdir -p "$home/npm"
    cp "$1" "$home/npm/package.json"
    (cd "$home/npm" && npm install --silent --no-audit --no-fund --no-package-lock)
}
