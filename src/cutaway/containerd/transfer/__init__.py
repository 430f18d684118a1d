"""Transfers: images between the store, archives and registries, done by the daemon for its client.

Loaded with the first transfer, but for the streams: most daemons never see one.
"""
