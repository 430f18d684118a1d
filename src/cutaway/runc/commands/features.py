"""`features`: what this runtime can do (runtime-spec features.md); each list is the code's own table."""

import sys
from contextlib import suppress

from cutaway import __version__
from cutaway.errors import FailedPrecondition
from cutaway.linux import capabilities, namespaces, seccomp, seccomp_compile
from cutaway.linux.cgroups import systemd_properties
from cutaway.runc import version
from cutaway.runc.criu.options import CONFIG_ANNOTATION
from cutaway.runc.plan import mount_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cutaway.runc.context import Context
    from cutaway.runc.options import Parsed

HOOKS = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]


def run(context: "Context", parsed: "Parsed") -> int:
    """Print the features; 0."""
    import json

    sys.stdout.write(json.dumps(features(), indent=4) + "\n")
    sys.stdout.flush()
    return 0


def _annotations() -> dict[str, str]:
    """What runc says of itself by these names, and our own version."""
    found = {"org.cutaway.runc.version": __version__, "org.opencontainers.runc.checkpoint.enabled": "true"}
    with suppress(FailedPrecondition):  # without libseccomp there is no version of it
        found["io.github.seccomp.libseccomp.version"] = seccomp_compile.version()
    return found


def _architectures() -> list[str]:
    """Those that the libseccomp here knows; without it, none."""
    with suppress(FailedPrecondition):
        return [name for name in seccomp_compile.ARCHITECTURES if seccomp_compile.token_of(name)]
    return []


def features() -> dict[str, object]:
    """The document."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": version.SPEC,
        "hooks": HOOKS,
        "mountOptions": mount_options.known(),
        "linux": {
            "namespaces": sorted(namespaces.KINDS),
            "capabilities": list(capabilities.supported()),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": False},
            "seccomp": {
                "enabled": seccomp.available(),
                "actions": sorted(seccomp_compile.ACTIONS),
                "operators": sorted(seccomp_compile.OPERATORS),
                "archs": sorted(_architectures()),
                "knownFlags": sorted(seccomp.FLAGS),
                "supportedFlags": sorted(seccomp.supported_flags()),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": _annotations(),
        "potentiallyUnsafeConfigAnnotations": [systemd_properties.PREFIX, CONFIG_ANNOTATION],
    }
