"""ttrpc for the daemon: a client of shims and a server for their events, on the event loop.

Source: containerd/ttrpc PROTOCOL.md. The wire is two-faced for us: gRPC above, ttrpc below.

    frames   header and payload of one message
    status   error classes as google.rpc.Status and back
    client   concurrent calls over one connection
    server   unary services
"""
