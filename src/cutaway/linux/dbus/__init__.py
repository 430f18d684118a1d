"""A small D-Bus client: enough to ask systemd for units.

    wire.py        values and messages as bytes, and back
    connection.py  a bus or a peer: authentication, calls, signals
    text.py        values as people write them (GVariant text), as annotations have them

D-Bus Specification 0.42, https://dbus.freedesktop.org/doc/dbus-specification.html
"""
