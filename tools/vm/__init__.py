"""Run tests in a small virtual machine: another kernel than this machine's, with cgroup v2 alone.

`python -m tools.vm` boots it; docs/decisions/test-vm.md says why it is made this way.

    cpio.py       the format of an initramfs
    content.py    which files the guest needs, and the kernel's modules
    machine.py    qemu, its console and its end
    init          the guest's process 1
    at_once.py    failures shown when they come, a plugin of the guest's pytest
"""
