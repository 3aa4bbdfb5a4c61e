"""ZIP files of unknown origin: a directory read within bounds, members judged, bytes unpacked within bounds.

What belongs here: what holds of every ZIP file, listed by a source or met by a parser. What doesn't: keys and rules of a
source's members (``sources.zip_members``), documents that are ZIP files (``parsing.containers``).
"""
