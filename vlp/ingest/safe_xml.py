"""XML from strangers: read without a document type, so nothing in it can expand, fetch or include anything."""

from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from vlp.errors import DataError

MAX_BYTES = 16 * 1024 * 1024
_MAX_DEPTH = 100


def read_xml(path: Path) -> Element:
    """The root element of the XML file at `path`.

    Raises:
        DataError: if it cannot be read, is larger than 16 MiB, nested deeper than 100 elements, not well formed, or
            has a document type, the part of XML that entity bombs and requests for other files are made of.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES >> 20} MiB; too large for a report")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return _Reader(path).read(content)


class _Reader:
    """Expat with a handler for all that is allowed, and one for the rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._depth = 0
        self._builder = TreeBuilder()

    def read(self, content: bytes) -> Element:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._builder.data
        try:
            parser.Parse(content, True)
        except expat.ExpatError as error:
            raise DataError(f"{self._path}: line {error.lineno}: not XML; is the file cut off?") from None
        except (LookupError, ValueError):
            raise DataError(f"{self._path}: in an encoding that XML does not know") from None
        return self._builder.close()

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise DataError(f"{self._path}: nested too deeply")
        self._builder.start(tag, attributes)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        self._builder.end(tag)

    def _refuse(self, *_: object) -> NoReturn:
        raise DataError(f"{self._path}: has a document type (DOCTYPE); it is refused, for it could expand without end")
