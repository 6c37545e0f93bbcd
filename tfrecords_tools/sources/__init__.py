"""What can be converted to records; each kind of source is a module."""

from .folder import image_folder
from .source import UNLABELLED, RecordSettings, Source, SourceImage, printable, some


def open_source(location) -> Source:
    """The images at a location, listed and not opened.

    Raises:
        RecordsError: there is no such source, or it is not as it must be.
    """
    return image_folder(location)


__all__ = ["UNLABELLED", "RecordSettings", "Source", "SourceImage", "image_folder", "open_source", "printable", "some"]
