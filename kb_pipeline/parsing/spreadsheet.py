"""Spreadsheets (XLSX, XLSM, XLSB, XLS, ODS), turned into Markdown tables. Read with calamine, which is native code.

What belongs here: which cells are text, and how values are written. Formulas give their last values; charts, comments
and formats are left out.
"""

from __future__ import annotations

import io
from datetime import date, datetime, time, timedelta

from kb_pipeline.parsing import ooxml
from kb_pipeline.parsing.containers import Container
from kb_pipeline.parsing.document import Document
from kb_pipeline.parsing.errors import ParseError
from kb_pipeline.parsing.odf import document_metadata
from kb_pipeline.parsing.signatures import OLE, encrypted_office
from kb_pipeline.parsing.writer import Writer
from kb_pipeline.statuses import Status

_WHAT = "The workbook"
_MEDIA_TYPES = {
    "xls": "application/vnd.ms-excel",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "xlsb": "application/vnd.ms-excel.sheet.binary.macroenabled.12",
}
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def parse(data: bytes, name: str) -> Document:
    """Parse a workbook: each sheet is a heading, and its rows up to an empty one a table.

    Raises ParseError: ENCRYPTED, CORRUPT, TOO_LARGE, UNSUPPORTED.
    """
    # Imported here, so that the registry can name this parser without loading native code into the main process.
    import python_calamine as calamine

    title, metadata = _check(data)
    writer = Writer()
    try:
        workbook = calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))
        for sheet in workbook.sheets_metadata:
            if sheet.typ is not calamine.SheetTypeEnum.WorkSheet:
                continue
            _write(workbook.get_sheet_by_name(sheet.name).to_python(skip_empty_area=True), sheet.name, writer)
    except calamine.PasswordError:
        raise ParseError(Status.ENCRYPTED, f"{_WHAT} needs a password.") from None
    except calamine.CalamineError as error:
        raise ParseError(Status.CORRUPT, f"{_WHAT} can't be read: {error}.") from None
    # A sheet's name is a heading, and no title of the document.
    writer.headings.first = None
    extension = name.rpartition(".")[2].lower()
    return writer.document(_MEDIA_TYPES.get(extension, XLSX), title, metadata)


def _check(data: bytes) -> tuple[str, dict[str, str]]:
    """Return the title ("" for none) and the metadata, where the format is a ZIP file, and check that before all else."""
    if data.startswith(OLE):
        if encrypted_office(data):
            raise ParseError(Status.ENCRYPTED, f"{_WHAT} needs a password.")
        return "", {}
    container = Container(data, _WHAT)
    return document_metadata(container) if "content.xml" in container else ooxml.Package(data, _WHAT).properties


def _write(rows: list[list[object]], name: str, writer: Writer) -> None:
    table: list[list[str]] = []
    pending = True  # The heading goes before the first cell that holds something.
    for row in [*rows, []]:
        cells = [_cell(value) for value in row]
        if any(cells):
            table.append(cells)
        elif table:
            if pending:
                writer.heading(1, " ".join(name.split()))
                pending = False
            writer.table(_trimmed(table), header=len(table) > 1)
            table = []


def _trimmed(rows: list[list[str]]) -> list[list[str]]:
    """Return a table without the columns on either side that are empty in all its rows."""
    first = min(next(i for i, cell in enumerate(row) if cell) for row in rows)
    last = max(i for row in rows for i, cell in enumerate(row) if cell)
    return [row[first : last + 1] for row in rows]


def _cell(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(sep=" ")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        seconds = round(value.total_seconds())
        return f"{seconds // 3_600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return " ".join(str(value).split())
