#!/bin/sh
# Starts systemd as process 1 of the pid, mount, uts, ipc and cgroup namespaces that this runs in, with a root
# file system of its own in the directory $1: /usr of the host below an overlay, with the directory $5 over it if
# that is given, everything else made here.
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 none "$1"
cd "$1"
mkdir -p usr etc/systemd/system etc/ipcluster var/log run tmp dev proc sys root upper work old
mount -t overlay -o "lowerdir=${5:+$5:}/usr,upperdir=$1/upper,workdir=$1/work" none usr
for name in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name" ]; then ln -s "$(readlink "/$name")" "$name"; fi
done
cp "$2" usr/bin/ipcluster
cp "$3" usr/bin/greeter
cp "$4" etc/systemd/system/ipcluster@.service
for name in passwd group nsswitch.conf ld.so.cache; do
    if [ -e "/etc/$name" ]; then cp "/etc/$name" etc/; fi
done
: > etc/fstab
: > etc/machine-id
echo 'ID=test' > etc/os-release
mount -t tmpfs -o mode=755 none run
mount -t tmpfs -o mode=1777 none tmp
mount -t tmpfs -o mode=755 none dev
for name in null zero full random urandom tty; do
    : > "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/shm
: > dev/console
ln -s /proc/self/fd dev/fd
mount -t proc none proc
mount -t sysfs -o ro none sys
mount -t cgroup2 none sys/fs/cgroup
pivot_root . old
cd /
umount -l /old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd \
    --unit=basic.target --log-target=console --log-level=info --show-status=no < /dev/null
