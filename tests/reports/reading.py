"""Reading pages as a browser would, without one."""

from html.parser import HTMLParser
from pathlib import Path

from reports import site
from tests.reports.conftest import Results

VOID = {"meta", "link", "img", "source", "br", "input"}
SHAPES = {"path", "rect", "circle"}
"""Elements of SVG that close themselves."""


class Reader(HTMLParser):
    """Collects elements and links, and the text outside tags; every element must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES | VOID
        self._seen(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def _seen(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.append((name, value or ""))
            if name in ("href", "src", "srcset"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag == "script":
            self.scripts.append(dict(attrs).get("src") or "inline")


def read(results: Results, page: str = "index.html") -> tuple[str, Reader]:
    """Build the site and read one page of it."""
    text = (site.build(results.path, results.path / "site").parent / page).read_text()
    return text, Reader(text)


def section(text: str, name: str) -> str:
    """The text of one section of a page."""
    return text.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
