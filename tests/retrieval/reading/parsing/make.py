"""Small documents of each format, sound and hostile, made from nothing but the standard library."""

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Sequence

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"

Page = Sequence[tuple[float, str]]
"""(size of type, text) of each line."""


def pdf_file(objects: dict[int, bytes], *, trailer: str = "") -> bytes:
    """Object 1 is the catalog."""
    out, offsets = io.BytesIO(), {}
    out.write(b"%PDF-1.7\n")
    for number, body in objects.items():
        offsets[number] = out.tell()
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    size = max(objects) + 1
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % size)
    for number in range(1, size):
        out.write(b"%010d 00000 n \n" % offsets.get(number, 0))
    out.write(f"trailer\n<< /Size {size} /Root 1 0 R {trailer} >>\n".encode())
    out.write(b"startxref\n%d\n%%%%EOF\n" % start)
    return out.getvalue()


def stream(content: bytes, entries: str = "") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (
        len(content),
        entries.encode(),
        content,
    )


def pdf(pages: Iterable[Page | bytes], *, title: str = "") -> bytes:
    """A page is its lines, or a content stream's object as it is."""
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        4: f"<< /Title ({title}) >>".encode(),
    }
    kids = []
    for number, page in enumerate(pages):
        content, node = 5 + 2 * number, 6 + 2 * number
        objects[content] = page if isinstance(page, bytes) else stream(_drawn(page))
        objects[node] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % content
        )
        kids.append(f"{node} 0 R")
    objects[2] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>".encode()
    return pdf_file(objects, trailer="/Info 4 0 R" if title else "")


def _drawn(page: Page) -> bytes:
    lines, height = [], 750.0
    for size, text in page:
        shown = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        lines.append(f"BT /F1 {size} Tf 1 0 0 1 50 {height} Tm ({shown}) Tj ET")
        height -= size * 1.2
    return "\n".join(lines).encode("latin-1")


def pdf_stacked_flate(layers: int, size: int) -> bytes:
    """A page whose content unpacks to `size` bytes through so many filters."""
    packer = zlib.compressobj(9)
    content = b"".join(packer.compress(b" " * 2**20) for _ in range(size >> 20)) + packer.flush()
    for _ in range(layers - 1):
        content = zlib.compress(content, 9)
    filters = " ".join(["/FlateDecode"] * layers)
    return pdf([stream(content, f"/Filter [{filters}]")])


def pdf_cyclic_pages() -> bytes:
    return pdf_file(
        {
            1: b"<< /Type /Catalog /Pages 2 0 R >>",
            2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            3: b"<< /Type /Pages /Parent 2 0 R /Kids [2 0 R] /Count 1 >>",
        }
    )


def pdf_encrypted() -> bytes:
    """By the standard handler in RC4, with a user password that nobody has."""
    encrypt = f"<< /Filter /Standard /V 1 /R 2 /P -4 /O <{'11' * 32}> /U <{'22' * 32}> >>".encode()
    plain = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: b"<< /Type /Pages /Kids [] /Count 0 >>",
        3: encrypt,
    }
    return pdf_file(plain, trailer="/Encrypt 3 0 R /ID [<00> <00>]")


def heading(text: str, level: int) -> str:
    return _paragraph(text, f'<w:pPr><w:pStyle w:val="Heading{level}"/></w:pPr>')


def paragraph(text: str) -> str:
    return _paragraph(text, "")


def _paragraph(text: str, properties: str) -> str:
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Its first row in bold type."""
    drawn = []
    for number, row in enumerate(rows):
        bold = "<w:rPr><w:b/></w:rPr>" if number == 0 else ""
        cells = (f"<w:tc><w:p><w:r>{bold}<w:t>{text}</w:t></w:r></w:p></w:tc>" for text in row)
        drawn.append(f"<w:tr>{''.join(cells)}</w:tr>")
    return f"<w:tbl>{''.join(drawn)}</w:tbl>"


def docx(
    *body: str, doctype: str = "", more: dict[str, bytes] | None = None, main: str | None = None
) -> bytes:
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="Heading{level}">'
        f'<w:name w:val="heading {level}"/></w:style>'
        for level in (1, 2, 3)
    )
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"/>',
        "_rels/.rels": (
            f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1"'
            f' Type="{OFFICE}/officeDocument" Target="word/document.xml"/></Relationships>'
        ),
        "word/styles.xml": f'<w:styles xmlns:w="{W}">{styles}</w:styles>',
        "word/document.xml": main
        or f'{doctype}<w:document xmlns:w="{W}"><w:body>{"".join(body)}</w:body></w:document>',
    }
    return zipped({**{name: text.encode() for name, text in parts.items()}, **(more or {})})


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in files.items():
            package.writestr(name, content)
    return out.getvalue()


def billion_laughs() -> str:
    entities = ['<!ENTITY a0 "ha">']
    entities += [f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)]
    return f"<!DOCTYPE w:document [{''.join(entities)}]>"


def external_entity(path: str) -> str:
    return f'<!DOCTYPE w:document [<!ENTITY secret SYSTEM "file://{path}">]>'


def csv_file(rows: Sequence[Sequence[object]], delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter).writerows(rows)
    return out.getvalue().encode()


def notebook(*cells: dict[str, object], **metadata: object) -> bytes:
    return json.dumps(
        {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    ).encode()
