"""The shim: one small process beside a container, between the container service and the runtime.

main        the command line (`start`, `delete`)
start       a listening socket, and the daemon forked off to serve it
bootstrap   how the caller of `start` speaks, and is answered
cleanup     `delete`: what is left to do after the daemon has gone
daemon      puts the parts below together and runs the loop
loop        readiness, timers, coroutines: the daemon's only thread
reaper      children and orphans
ttrpc/      the transport: frames, server, client, status codes
service     the task service: wire messages to calls on containers and back
container   a container with its processes
process     what `init` and `exec` processes have in common
states      which verb is allowed when
checkpoint  saving a container, and what one is restored from
runtime     the OCI runtime's command line
launch      starting a program, by exec or by fork
programs    runtimes that are already in memory
stdio       FIFOs, pipes, terminals, loggers; pump copies between them
mounts      the root filesystem that a request asks for; overlays of many layers
events      to the container service, in order
stats, oom  reading the container's cgroup
title       what `ps` shows
tracing     spans of the shim's own steps
zygote      a warm process that forks shims
"""
