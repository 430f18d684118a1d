"""Containers: what they are, and everything that can be done to them.

config     Docker's Config and HostConfig as typed documents
model      a container, its state machine, its mount points
index      all containers: by id, by prefix, by name; written through to SQLite
create     the request and the image's defaults become a container
launch     start: network, snapshot, FIFOs, spec, containerd's container and task, or all of it undone
exits      a task has ended: last output, clean-up, state, restart policy, removal
control    kill, stop, pause, rename and the like
removal    remove, and what goes with a container
execs      further processes inside
adoption   after a restart of ours or of containerd: what runs is found again
service    the one object the API talks to
"""
