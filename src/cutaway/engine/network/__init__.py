"""Containers' networks: the default bridge, `none`, `host`; published ports."""

from cutaway.engine.network.model import Endpoint, NetworkInfo, PortMapping
from cutaway.engine.network.service import NetworkService

__all__ = ["Endpoint", "NetworkInfo", "NetworkService", "PortMapping"]
