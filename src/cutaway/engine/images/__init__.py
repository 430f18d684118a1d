"""The engine's image service: pull, find, list, tag and remove, over seams 2 and 3."""

from cutaway.engine.images.model import EmbeddedSettings, Image, ImageSettings
from cutaway.engine.images.remove import User
from cutaway.engine.images.service import ImageService

__all__ = ["EmbeddedSettings", "Image", "ImageService", "ImageSettings", "User"]
