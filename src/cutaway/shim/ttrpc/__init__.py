"""ttrpc: protobuf calls over a Unix socket, as containerd and its shims speak it.

Source: containerd/ttrpc PROTOCOL.md. Only unary calls: the task and event services have no others.

frame       the ten-byte header and its limits
connection  a socket's two buffers
status      our errors as google.rpc.Status, and back
server      concurrent calls with metadata and deadlines
client      one call at a time, reconnecting
"""
