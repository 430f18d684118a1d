"""Protobuf messages of the wire protocols; the *_pb2 modules are generated from proto/."""
