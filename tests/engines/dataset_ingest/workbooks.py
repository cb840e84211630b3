"""Workbooks written by hand: the XML that a spreadsheet program would write, and what a hostile hand would."""

from __future__ import annotations

import io
import zipfile
from xml.sax.saxutils import escape

NAMESPACE = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
HEADER = ("conversation_id", "human", "assistant")
STYLES = (
    f'<styleSheet {NAMESPACE}><numFmts count="2"><numFmt numFmtId="164" formatCode="yyyy\\-mm\\-dd"/>'
    '<numFmt numFmtId="165" formatCode="0.0%"/></numFmts><cellXfs count="4"><xf numFmtId="0"/><xf numFmtId="14"/>'
    '<xf numFmtId="164"/><xf numFmtId="165"/></cellXfs></styleSheet>'
)
"""Style 1 and 2 show dates, 3 shows a percentage."""


def text(value: str) -> str:
    return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'


def number(value: str, style: int = 0) -> str:
    return f'<c s="{style}"><v>{value}</v></c>'


def row(*cells: str) -> str:
    return f"<row>{''.join(cells)}</row>"


def sheet(*rows: str, behind: str = "", header: tuple[str, ...] = HEADER) -> str:
    first = row(*map(text, header)) if header else ""
    return f"<worksheet {NAMESPACE}><sheetData>{first}{''.join(rows)}</sheetData>{behind}</worksheet>"


def workbook(*sheets: str, strings: str | None = None, more: dict[str, bytes] | None = None) -> bytes:
    """A whole .xlsx with these sheets."""
    names = range(1, len(sheets) + 1)
    listed = "".join(f'<sheet name="S{n}" sheetId="{n}" r:id="rId{n}"/>' for n in names)
    related = "".join(f'<Relationship Id="rId{n}" Type="x/worksheet" Target="worksheets/sheet{n}.xml"/>' for n in names)
    related += '<Relationship Id="rIdX" TargetMode="External" Type="x" Target="http://127.0.0.1:9/x.xml"/>'
    parts = {
        "[Content_Types].xml": "<Types/>",
        "xl/workbook.xml": f'<workbook {NAMESPACE} xmlns:r="{RELATIONS}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f"<Relationships>{related}</Relationships>",
        "xl/styles.xml": STYLES,
        **{f"xl/worksheets/sheet{n}.xml": one for n, one in zip(names, sheets, strict=True)},
    }
    if strings is not None:
        parts["xl/sharedStrings.xml"] = f"<sst {NAMESPACE}>{strings}</sst>"
    return zipped({name: part.encode() for name, part in parts.items()} | (more or {}))


def zipped(entries: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return made.getvalue()
