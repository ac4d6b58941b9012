# What stands before the commands of a page when `documentation::` runs them, one page in one shell. The
# commands are run as they stand; what a reader does besides, such as opening another terminal, is done here.
set -Euo pipefail
exec 3>&1
# As `set -e`, but for what goes on in the background, as in a terminal.
failed() {
    local status=$?
    [[ $BASH_SUBSHELL -eq 0 ]] || return 0
    echo "failed with $status: $block: $BASH_COMMAND" >&3
    cat "$outputs/${block##*:}" >&3
    exit 1
}
trap failed ERR

# What the host of the reader has.
ip address add 192.0.2.1/32 dev lo
ip link add eth0 type veth peer name link-of-eth0

# In a terminal of its own, as a reader has it: it stays there, and what ran before has been ended. New workers
# are on probation for three seconds, for the test's sake. Goes on when the workers serve.
in_a_terminal() { # ARGUMENTS of run
    case " $* " in
    *' --replace '*) ;;
    *) end_clusters ;;
    esac
    command ipcluster run --rollout-probation 3s "$@" &
    local master=$! tries
    for tries in {1..400}; do
        command ipcluster wait ready --timeout 20s >/dev/null 2>&1 && return
        kill -0 "$master" 2>/dev/null || break
        sleep 0.05
    done
    return 1
}

end_clusters() {
    local lock name
    for lock in /run/ipcluster/*.lock "$XDG_RUNTIME_DIR"/ipcluster/*.lock; do
        name=${lock##*/}
        command ipcluster stop --now "${name%.lock}" >/dev/null 2>&1 || continue
        wait "$(cat "$lock")" || true
    done
}

ipcluster() {
    case ${1:-} in
    run) in_a_terminal "${@:2}" ;;
    # These go on until Ctrl-C: a look is enough.
    events) command ipcluster "$@" | head -n 1 ;;
    *) command ipcluster "$@" ;;
    esac
}

# A stream has no end.
curl() {
    case " $* " in
    *' -N '*) { command curl -s "$@" || true; } | head -n 2 ;;
    *) command curl "$@" ;;
    esac
}

sudo() { "$@"; }

# What the packaged unit does, without systemd.
systemctl() {
    local name=${*: -1}
    name=${name#ipcluster@}
    case $1 in
    start | enable) in_a_terminal --config "$etc/ipcluster/$name.toml" --name "$name" ;;
    reload) command ipcluster reload "$name" ;;
    status) command ipcluster status "$name" ;;
    restart)
        local old
        old=$(cat /run/ipcluster/"$name".lock)
        kill -TERM "$old"
        while kill -0 "$old" 2>/dev/null; do sleep 0.01; done
        in_a_terminal --replace --config "$etc/ipcluster/$name.toml" --name "$name"
        ;;
    *) return 1 ;;
    esac
}
