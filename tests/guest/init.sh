#!/bin/sh
# The guest's first process: makes the machine's root writable under an overlay in memory, runs the command, turns off.
# guest.py gives the kernel GUEST_FOLDER=FOLDER, which the kernel hands on as a variable; FOLDER/command is run, and
# FOLDER/status gets its exit status. Inside, FOLDER is /mnt/folder.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb TMPDIR=/mnt/tmp
folder=$GUEST_FOLDER
modules=/usr/lib/uml/modules
off() {
    sync
    echo o >/proc/sysrq-trigger
    sleep 60
}

mount -t proc proc /proc || exit 1 # a first process that ends stops the kernel
{
    insmod "$modules/$(uname -r)/kernel/fs/overlayfs/overlay.ko" &&
        mount -t tmpfs tmpfs /mnt && mkdir /mnt/upper /mnt/work /mnt/root &&
        mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root &&
        cd /mnt/root && mkdir -p mnt/old && pivot_root . mnt/old && cd / &&
        mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t devtmpfs devtmpfs /dev &&
        mkdir -p /dev/shm /dev/pts && mount -t tmpfs tmpfs /dev/shm && mount -t devpts devpts /dev/pts &&
        ln -sfn /proc/self/fd /dev/fd && umount -l /mnt/old &&
        mkdir -p /mnt/folder $TMPDIR && mount -t hostfs none /mnt/folder -o "$folder" &&
        mount -t tmpfs tmpfs $TMPDIR && mount -t tmpfs tmpfs /run &&
        mkdir -p /lib/modules && mount --bind "$modules" /lib/modules &&
        # Every node has IPv6 from the start; here it is a module that comes with the first use.
        modprobe ipv6 && ip link set lo up
} || {
    echo "guest: the root cannot be prepared"
    off
}
echo "guest: begin"
sh /mnt/folder/command </dev/null
status=$?
echo "guest: end"
echo $status >/mnt/folder/status
off
