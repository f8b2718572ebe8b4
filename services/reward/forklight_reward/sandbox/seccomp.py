"""The system calls a jailed program may not make, as a filter that bubblewrap loads."""

from __future__ import annotations

import errno
import logging
import os
from functools import lru_cache

logger = logging.getLogger(__name__)

CLONE_NEWUSER = 0x10000000
AF_NETLINK = 16
# Only UNIX, internet and netlink sockets, which the network namespace confines: vsock would reach a
# hypervisor, and the rest is kernel surface.
REFUSED_FAMILIES = tuple(family for family in range(AF_NETLINK) if family not in (1, 2, 10))
# Kernel surface that no test program needs; memfd and System V memory would hide from the memory limit.
REFUSED = (
    "ptrace", "mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig",
    "fsmount", "fspick", "mount_setattr", "unshare", "setns", "bpf", "userfaultfd", "io_uring_setup",
    "io_uring_enter", "io_uring_register", "keyctl", "add_key", "request_key", "process_vm_readv",
    "process_vm_writev", "perf_event_open", "clock_settime", "clock_adjtime", "settimeofday", "adjtimex",
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot", "swapon",
    "swapoff", "syslog", "acct", "quotactl", "open_by_handle_at", "name_to_handle_at", "personality",
    "pidfd_getfd", "kcmp", "memfd_create", "memfd_secret", "shmget", "shmat", "msgget", "semget",
    "mq_open", "fanotify_init", "lookup_dcookie", "vhangup", "sethostname", "setdomainname", "nfsservctl",
)  # fmt: skip


@lru_cache(maxsize=1)
def filter_program() -> bytes | None:
    """The compiled filter; None when libseccomp is not on this machine."""
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError) as error:
        logger.warning(
            "no seccomp filter: libseccomp is missing (install libseccomp2)", extra={"cause": str(error)}
        )
        return None
    rules = pyseccomp.SyscallFilter(defaction=pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    for name in REFUSED:
        try:
            rules.add_rule(refuse, name)
        except (RuntimeError, ValueError, OSError):
            logger.debug("libseccomp does not know this system call", extra={"syscall": name})
    new_user = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER)
    rules.add_rule(refuse, "clone", new_user)
    for family in REFUSED_FAMILIES:
        rules.add_rule(refuse, "socket", pyseccomp.Arg(0, pyseccomp.EQ, family))
    rules.add_rule(refuse, "socket", pyseccomp.Arg(0, pyseccomp.GT, AF_NETLINK))
    # Its flags lie in memory, out of a filter's sight; the C library falls back to clone.
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    descriptor = os.memfd_create("seccomp")
    with os.fdopen(descriptor, "w+b") as stream:
        rules.export_bpf(stream)
        stream.seek(0)
        return stream.read()
