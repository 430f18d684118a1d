"""What `ps` shows for the daemon: its own arguments, not those of what it was forked from."""

import ctypes
import os

from cutaway.linux import processes, smallfile

_ARG_START, _ARG_END = 45, 46  # fields 48 and 49 of /proc/PID/stat, counted after the name


def set_title(words: list[str]) -> None:
    """Overwrite this process's argument area (proc_pid_cmdline(5)), cut to its size.

    prctl(PR_SET_MM) could move it to a larger one, but needs CAP_SYS_RESOURCE.
    """
    fields = smallfile.read("/proc/self/stat").rpartition(b")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    size = end - start
    if size > 1:
        text = b"\0".join(map(os.fsencode, words))[: size - 1]
        ctypes.memmove(start, text.ljust(size, b"\0"), size)
    processes.set_name(words[0])
