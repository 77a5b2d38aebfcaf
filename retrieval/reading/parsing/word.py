"""Convert Word documents (.docx) to Markdown, by way of mammoth's HTML.

A .docx is a zip of XML parts: what they would unpack to is summed up before any is unpacked, and a
part with a document type declaration, where entities would be defined, is refused as the format has
it (ECMA-376 part 2, 7.2.5). Pictures are not opened, files elsewhere never.
"""

from io import BytesIO
from typing import NoReturn
from xml.parsers import expat
from zipfile import BadZipFile, ZipFile

import mammoth

from retrieval.reading.bounded import Unreadable
from retrieval.reading.parsing.webpage import to_markdown
from retrieval.reading.parsing.wire import Parsed, ParseLimits

MOST_PARTS = 10_000
MAIN_PART = "word/document.xml"

_STYLES = """\
p[style-name='Title'] => h1:fresh
p[style-name='Quote'] => p:fresh
p[style-name='Caption'] => p:fresh
"""
_BACK_LINK = ">↑</a>"
"""Ends each of mammoth's footnotes."""


def parse(content: bytes, limits: ParseLimits) -> Parsed:
    _check(content, limits)
    converted = mammoth.convert_to_html(
        BytesIO(content),
        style_map=_STYLES,
        include_embedded_style_map=False,
        convert_image=lambda image: [],
        external_file_access=False,
    )
    text, _ = to_markdown(converted.value.replace(_BACK_LINK, "></a>"))
    return Parsed(text)


def _check(content: bytes, limits: ParseLimits) -> None:
    try:
        with ZipFile(BytesIO(content)) as package:
            parts = package.infolist()
            if len(parts) > MOST_PARTS:
                raise Unreadable(f"more than {MOST_PARTS:,} parts")
            texts = [part for part in parts if part.filename.endswith((".xml", ".rels"))]
            if sum(part.file_size for part in texts) > limits.unpacked_bytes:
                raise Unreadable(f"unpacks to more than {limits.unpacked_bytes >> 20} MiB")
            if MAIN_PART not in package.namelist() and not texts:
                raise Unreadable("a zip file, but not a Word document")
            for part in texts:
                _check_part(part.filename, package.read(part))
    except BadZipFile as exc:
        raise Unreadable(f"damaged zip file: {exc}") from None


def _check_part(name: str, xml: bytes) -> None:
    def refuse(*declaration: object) -> NoReturn:
        raise Unreadable(f"{name} declares a document type, which could define entities")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(xml, True)
    except expat.ExpatError as exc:
        raise Unreadable(f"damaged: {name}: {exc}") from None
