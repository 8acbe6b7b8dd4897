"""Pages of HTML, taken apart."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "input", "use", "path"}


class Page(HTMLParser):
    """Elements of a page with their attributes and texts; fails where end tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID - {"use", "path"}:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "script":
            self.scripts[self.open[-1][1].get("type")] = data
        else:
            self.texts.append(data)


def assert_self_contained(page: str) -> None:
    """It loads, runs and links nothing outside itself; its ids are its elements' own."""
    parsed = Page(page)
    for tag, attributes in parsed.elements:
        own = r"#|data:image/(jpeg|svg\+xml);base64," if tag == "img" else "#"  # in an img no script of an SVG runs
        assert not {"src", "href", "srcset", "action", "data"} & set(attributes) or re.match(
            own, attributes.get("src") or attributes.get("href") or ""
        ), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert [a for _, a in parsed.elements if "id" in a]
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in parsed.elements if tag in ("a", "use")} <= set(ids)


def assert_one_script_runs(page: str) -> None:
    """The policy allows the page's script, by its digest, and nothing else."""
    parsed = Page(page)
    policy = next(a["content"] for tag, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[None].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
