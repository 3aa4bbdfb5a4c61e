"""XML of unknown origin, as a tree.

What belongs here: parsing within bounds, and the few questions that every XML format asks of a tree. Entities are never
expanded and nothing outside is ever loaded: a document that declares entities is refused before its first element.
"""

from __future__ import annotations

import html.entities
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from xml.etree.ElementTree import Element, XMLParser, tostring
from xml.etree.ElementTree import ParseError as NotWellFormed
from xml.parsers import expat

from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.statuses import Status

MAX_DEPTH = 200
"""Elements inside each other; the walks over trees recurse."""

_NO_MEMORY = expat.errors.codes[expat.errors.XML_ERROR_NO_MEMORY]


class _RootReached(Exception):
    """The part that may declare entities is over."""


def parse(data: bytes, what: str, *, encoding: str | None = None) -> Element:
    """Return the root element. ``what`` begins the message, as in "The feed"; ``encoding`` overrides the declared one.

    The named characters of HTML are known where a document type is declared.
    Raises ParseError(CORRUPT) for what is not well-formed, declares entities, or is nested more than 200 deep.
    """
    refuse_entities(data, what, encoding)
    parser = XMLParser(encoding=encoding)
    parser.entity.update(html.entities.entitydefs)
    try:
        parser.feed(data)
        root = parser.close()
    except (NotWellFormed, ValueError, LookupError) as error:
        raise _not_well_formed(error, what) from None
    level, depth = [root], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ParseError(Status.CORRUPT, f"{what} is nested more than {MAX_DEPTH} elements deep.")
        level = list(chain.from_iterable(level))
    return root


def refuse_entities(data: bytes, what: str, encoding: str | None = None) -> None:
    """Raise ParseError(CORRUPT) when the document type declares entities, whatever they would expand to."""
    parser = expat.ParserCreate(encoding)

    def declared(*_: object) -> None:
        raise ParseError(Status.CORRUPT, f"{what} declares entities, which are not expanded.")

    def reached(*_: object) -> None:
        raise _RootReached

    parser.EntityDeclHandler = declared
    parser.StartElementHandler = reached
    try:
        parser.Parse(data, True)
    except _RootReached:
        pass
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise _not_well_formed(error, what) from None


def _not_well_formed(error: Exception, what: str) -> Exception:
    # Expat takes a refusal of memory for an error like others.
    if getattr(error, "code", None) == _NO_MEMORY:
        return MemoryError()
    return ParseError(Status.CORRUPT, f"{what} is not well-formed XML: {error}.")


def local(element: Element) -> str:
    """Return the name of an element without its namespace; "" for comments and processing instructions."""
    return _local_name(element.tag)


# Asked for every element, several times; a format has a few hundred names.
@lru_cache(4_096)
def _local_name(tag: object) -> str:
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def children(element: Element | None, name: str) -> list[Element]:
    """Return the children with a local name."""
    return [each for each in element if _local_name(each.tag) == name] if element is not None else []


def child(element: Element | None, *path: str) -> Element | None:
    """Return the first child with the first local name of ``path``, in it the first with the second, and so on."""
    for name in path:
        if element is None:
            return None
        for each in element:
            if _local_name(each.tag) == name:
                element = each
                break
        else:
            return None
    return element


def attribute(element: Element | None, name: str) -> str | None:
    """Return an attribute by its local name, in whatever namespace."""
    if element is None:
        return None
    if (value := element.get(name)) is not None:
        return value
    for key, value in element.items():
        if _local_name(key) == name:
            return value
    return None


def text_of(element: Element | None) -> str:
    """Return all text in an element, as it is; "" for None."""
    return "".join(element.itertext()) if element is not None else ""


def descendants(element: Element, name: str) -> Iterator[Element]:
    """Yield the element itself and all that is in it, where the local name is ``name``."""
    return (each for each in element.iter() if local(each) == name)


def without_namespaces(element: Element) -> Element:
    """Return a copy in which every name is a local one; comments are left out."""
    copied = Element(local(element), {key.rpartition("}")[2]: value for key, value in element.items()})
    copied.text, copied.tail = element.text, element.tail
    copied.extend(without_namespaces(each) for each in element if local(each))
    return copied


def serialised(element: Element) -> str:
    """Return an element as HTML, with what follows it."""
    return tostring(element, encoding="unicode", method="html")
