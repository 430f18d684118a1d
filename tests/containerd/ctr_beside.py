"""The real `ctr` told the same by two daemons' sides: what it prints, and how it ends."""

from __future__ import annotations

import re
from collections.abc import Mapping

from support.stack import Containerd


def namespace_of(daemon: Containerd) -> str:
    """Each daemon's own: runtimes keep their state by namespace and id, wherever the daemon has its."""
    return f"{daemon.namespace}-{daemon.folder.name}"


def settled(text: str, daemon: Containerd) -> str:
    """What ctr printed, without what differs from run to run: times, paths, order of labels."""
    text = text.replace(str(daemon.root / "io.containerd.snapshotter.v1.overlayfs"), "ROOT")
    text = text.replace(str(daemon.root), "ROOT").replace(str(daemon.folder), "FOLDER")
    text = re.sub(r"/snapshots/\d+/", "/snapshots/N/", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ][\d:.]+( \+0000 UTC|Z)", "TIME", text)
    text = re.sub(r"(Less than a second|\d+ (second|minute)s?)( ago)?", "AGE", text)
    text = re.sub(r"elapsed: .*|unpacking .*|done: .*", "", text)
    # Whom else a blob was pushed to: ctr's pushes note that side by side, each over what it has read.
    text = re.sub(r"(distribution\.source\.[^=]+=[^,\s]+)(,library/\w+)+", r"\1", text)
    # containerd's snapshotters have keys of their own, which show in some of its errors.
    text = re.sub(rf"{namespace_of(daemon)}/\d+/", "", text).replace(namespace_of(daemon), "NAMESPACE")
    text = re.sub(
        r"[^\s,]+=\S*,\S+=\S*", lambda row: ",".join(sorted(re.split(r",(?=[^\s,=]+=)", row[0]))), text
    )
    return "\n".join(sorted(" ".join(line.split()) for line in text.strip().splitlines()))


def answer(daemon: Containerd, command: str, words: Mapping[str, str]) -> tuple[int, str, str]:
    """Exit code, output and errors of a command, its words in capitals filled in.

    `-n NAMESPACE` may stand first; FOLDER is the daemon's own. Standard input is a line that says hello.
    """
    for word, text in {**words, "FOLDER": str(daemon.folder)}.items():
        command = command.replace(word, text)
    arguments = command.split()
    namespace = namespace_of(daemon)
    if arguments[0] == "-n":
        _, namespace, *arguments = arguments
    done = daemon.ctr(*arguments, namespace=namespace, check=False, input="hello\n")
    if arguments[:2] in (["images", "pull"], ["images", "push"], ["content", "fetch"]):
        return done.returncode, "", ""  # progress, as far as it was shown
    return done.returncode, settled(done.stdout, daemon), settled(done.stderr, daemon)
