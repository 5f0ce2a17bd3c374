#!/bin/busybox sh
# PID 1 of a guest: run the payload, say how it ended, switch the machine off.
# When PID 1 ends the kernel panics, so nothing here may exit.

# The kernel hands over no PATH that is worth having.
export PATH=/bin HOME=/ TERM=dumb

# A failure to mount is no failure of the guest: a user's kernel may lack any of these.
# /proc first, for it shows the payload its own /proc/self.
mount -t proc -o nosuid,noexec,nodev proc /proc 2>/dev/null
mount -t sysfs -o nosuid,noexec,nodev sysfs /sys 2>/dev/null
# Hides this archive's /dev/console and /dev/null with the kernel's own nodes; the console that
# this shell has open stays open. Where CONFIG_DEVTMPFS is off, the archive's nodes serve.
mount -t devtmpfs -o nosuid,noexec devtmpfs /dev 2>/dev/null

# A module that does not load is told by the kernel and by what misses it.
for module in /modules/*.ko; do
    [ -e "$module" ] && insmod "$module"
done

# The firmware and the early kernel leave a line unfinished on the console, hence the first \n: the
# payload's lines must start at the left. One write, so that no line of the kernel's lands inside.
# Whoever watches this guest may want to stop it here, at the end of the boot, and let it go on with
# a line on the console. The kernel's command line asks for that: what the kernel does not know of
# the form name=value is in the environment of PID 1.
printf '\nosvtriage: ready\n'
word=
if [ -n "$osvtriage_wait" ]; then
    read -r word
fi

# Where a snapshot of this guest is taken while it waits, the line tells each trial apart: the clock
# and the random numbers are inside the snapshot. "seed=N" is for the payload, "jitter=N" the
# microseconds by which it starts later against the timer's tick, and "stay" keeps the guest.
seed= jitter= stay=
for item in $word; do
    case $item in
    seed=*) seed=${item#seed=} ;;
    jitter=*) jitter=${item#jitter=} ;;
    stay) stay=yes ;;
    esac
done

# What stood after " -- " on the kernel's command line arrives as this script's arguments; before it
# the words that the kernel did not know, such as nokaslr, which is its unpacker's on x86. Where the
# mark is there, the payload's own begin behind it.
case " $* " in
*" payload: "*)
    while [ "$1" != payload: ]; do shift; done
    shift
    ;;
esac
if [ -n "$seed" ] && [ "$1" = --seed ]; then
    shift 2
    set -- --seed "$seed" "$@"
fi
if [ -n "$jitter" ]; then
    usleep "$jitter"
fi

# A payload that is absent gives 127, as in any shell; one that a signal killed gives 128 + number.
if [ -x /payload ]; then
    /payload "$@"
    status=$?
else
    status=127
fi

# osvtriage waits for this line. The payload may have left one unfinished, too.
printf '\nosvtriage: exit status=%d\n' "$status"

# What comes next is that the snapshot is loaded again.
if [ -n "$stay" ]; then
    read -r _
fi

# Not plain poweroff: without -f it asks PID 1, which is this script, and waits for ever.
poweroff -f
# A kernel without a way to switch off (no firmware call for it): stop the CPUs instead.
halt -f
while :; do sleep 3600; done
