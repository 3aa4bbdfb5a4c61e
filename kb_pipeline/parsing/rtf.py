"""Rich Text Format (1.9.1), turned into Markdown.

What belongs here: the control words that make characters, paragraphs, headings, lists and tables. Formats, pictures,
headers and footers are left out; formulas give their characters only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from kb_pipeline.parsing.document import BlockKind, Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.metadata import common, one_line
from kb_pipeline.parsing.signatures import RTF
from kb_pipeline.parsing.writer import Writer
from kb_pipeline.statuses import Status

_TOKEN = re.compile(rb"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z'])|([{}])|([^\\{}\r\n]+)")
_LEFT_OUT_NAMES = """
    fonttbl colortbl stylesheet filetbl listtable listoverridetable rsidtbl generator pict object header headerl headerr
    headerf footer footerl footerr footerf themedata colorschememapping datastore latentstyles fldinst xmlnstbl mmathPr
    bkmkstart bkmkend pntxta pntxtb pnseclvl operator company manager category doccomm revtim printim buptim nonshppict
    datafield revtbl userprops objdata
"""
_LEFT_OUT = frozenset(_LEFT_OUT_NAMES.split())
_OPTIONAL = frozenset({"shppict", "shpinst", "mmath", "mmathPict", "txfieldtext", "ud"})
_CHARACTERS = {
    "tab": "\t", "line": "\n", "emdash": "—", "endash": "–", "lquote": "‘", "rquote": "’", "ldblquote": "“",
    "rdblquote": "”", "bullet": "•", "emspace": " ", "enspace": " ", "zwj": "", "zwnj": "",
}  # fmt: skip
_SYMBOLS = {b"~": "\u00a0", b"_": "-", b"-": "", b"{": "{", b"}": "}", b"\\": "\\", b"\n": "\n", b"\r": "\n"}
_KEPT = {"title": "title", "author": "author", "subject": "subject", "keywords": "keywords"}
_TIMES = {"creatim": "created"}
_BULLET = re.compile(r"^\W*$")
_CODE_PAGES = {65001: "utf-8", 10000: "mac-roman"}
_MAX_DEPTH = 10_000


@dataclass(frozen=True, slots=True)
class _Group:
    """What holds inside a pair of braces. ``target``: where its text goes, "" for nowhere; ``uc``: see ``\\ucN``."""

    target: str = "body"
    uc: int = 1


def parse(data: bytes, name: str) -> Document:
    """Parse rich text: headings by their outline level, lists by their markers, rows of tables.

    Raises ParseError(CORRUPT) for what doesn't begin as RTF does, or ends before its braces are closed.
    """
    if not data.lstrip().startswith(RTF):
        raise ParseError(Status.CORRUPT, "The file is no rich text.")
    reader = _Reader()
    reader.read(data)
    title = one_line(reader.texts.get("title"))
    metadata = common(author=reader.texts.get("author"), created=reader.created())
    found = {key: one_line(reader.texts.get(key)) for key in ("subject", "keywords")}
    return reader.writer.document("application/rtf", title, metadata | {key: text for key, text in found.items() if text})


class _Reader:
    def __init__(self) -> None:
        self.writer = Writer()
        self.texts: dict[str, str] = {}
        self._parts: dict[str, list[str]] = {}
        self._encoding = "cp1252"
        self._pending = bytearray()  # Bytes that make characters only together.
        self._skip = 0
        self._level: int | None = None
        self._in_table = False
        self._cells: list[str] = []
        self._rows: list[list[str]] = []
        self._in_list = False

    def read(self, data: bytes) -> None:
        """Write all that is there, and keep the texts of the information group."""
        group = _Group()
        stack: list[_Group] = []
        optional = False
        position = 0
        while (token := _TOKEN.search(data, position)) is not None:
            position = token.end()
            word, number, coded, symbol, brace, text = token.groups()
            if coded is None:
                self._decode(group.target)
            if brace == b"{":
                stack.append(group)
                if len(stack) > _MAX_DEPTH:
                    raise ParseError(Status.CORRUPT, "The rich text is nested too deep.")
            elif brace is not None:
                if not stack:
                    break  # What follows the last brace is no text.
                group = stack.pop()
                if not stack:
                    break
            elif symbol == b"*":
                optional = True
                continue
            elif word is not None:
                control = word.decode("ascii")
                if control == "bin" and number is not None:
                    # Bytes that are no rich text, of pictures mostly.
                    position += max(int(number), 0)
                    continue
                if optional and control not in _OPTIONAL:
                    group = replace(group, target="")
                group = self._control(control, int(number) if number is not None else None, group)
            elif coded is not None:
                self._byte(int(coded, 16))
            elif symbol is not None:
                self._put(_SYMBOLS.get(symbol, ""), group.target)
            elif text is not None:
                self._put_bytes(text, group.target)
            optional = False
        else:
            if stack:
                raise ParseError(Status.CORRUPT, "The rich text ends before its braces are closed.")
        self._end_paragraph()
        self._end_table()
        self.texts |= {key: "".join(parts) for key, parts in self._parts.items()}

    def created(self) -> str:
        """Return the date of creation, or ""."""
        numbers = [self.texts.get(f"created {unit}", "") for unit in ("yr", "mo", "dy")]
        return "-".join(number.zfill(2) for number in numbers) if all(numbers) else ""

    def _control(self, word: str, number: int | None, group: _Group) -> _Group:
        if not group.target:
            return group
        if word in _LEFT_OUT:
            return replace(group, target="")
        if word in _KEPT or word in _TIMES:
            return replace(group, target=_KEPT.get(word) or _TIMES[word])
        if word == "info":
            return replace(group, target="info")
        if word in ("listtext", "pntext"):
            return replace(group, target="marker")
        if group.target == "created" and word in ("yr", "mo", "dy") and number is not None:
            self.texts[f"created {word}"] = str(number)
        elif word == "u" and number is not None:
            self._put(chr(number % 0x10000), group.target)
            self._skip = group.uc
        elif word == "uc":
            return replace(group, uc=number or 0)
        elif word in ("ansicpg", "mac", "pc"):
            self._encoding = _known(_CODE_PAGES.get(number or 0, f"cp{number}") if word == "ansicpg" else "mac-roman")
        elif word in _CHARACTERS:
            self._put(_CHARACTERS[word], group.target)
        elif group.target == "body":
            self._layout(word, number)
        return group

    def _layout(self, word: str, number: int | None) -> None:
        if word in ("par", "sect", "page"):
            self._end_paragraph()
        elif word == "pard":
            self._level, self._in_table = None, False
        elif word == "outlinelevel":
            self._level = number if number is not None and 0 <= number < 9 else None
        elif word == "intbl":
            self._in_table = True
        elif word in ("cell", "nestcell"):
            self._cells.append(self._take("body"))
        elif word in ("row", "nestrow"):
            self._rows.append(self._cells)
            self._cells = []

    def _put(self, text: str, target: str) -> None:
        if target:
            self._parts.setdefault(target, []).append(text)

    def _put_bytes(self, text: bytes, target: str) -> None:
        skipped, self._skip = min(self._skip, len(text)), max(self._skip - len(text), 0)
        self._put(text[skipped:].decode(self._encoding, "replace"), target)

    def _byte(self, value: int) -> None:
        # After a Unicode character comes what programs show that don't know it.
        if self._skip:
            self._skip -= 1
        else:
            self._pending.append(value)

    def _decode(self, target: str) -> None:
        if self._pending:
            self._put(self._pending.decode(self._encoding, "replace"), target)
            self._pending.clear()

    def _take(self, target: str) -> str:
        # Characters beyond the first plane come in halves.
        text = "".join(self._parts.pop(target, ()))
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").strip()

    def _end_paragraph(self) -> None:
        text, marker = self._take("body"), self._take("marker")
        if self._in_table:
            # A paragraph inside a cell: the cell goes on.
            self._parts["body"] = [f"{text} "] if text else []
            return
        self._end_table()
        if not text:
            return
        line = " ".join(text.split())
        if self._level is not None:
            self.writer.heading(self._level + 1, line)
        elif marker:
            shown = "- " if _BULLET.match(marker) else f"{marker} "
            self.writer.item(line, marker=shown, level=0, joined=self._in_list)
        else:
            self.writer.add(BlockKind.PARAGRAPH, text)
        self._in_list = self._level is None and bool(marker)

    def _end_table(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            self.writer.table(rows, header=True)
            self._in_list = False


def _known(encoding: str) -> str:
    try:
        "".encode(encoding)
    except LookupError:
        return "cp1252"
    return encoding
