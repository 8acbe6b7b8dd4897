"""What every page is put into: one file with its style, script, data and pictures in it, that loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files

from videogn.report.markup import plural, size, text


def shell(
    title: str, about: str, sections: Sequence[tuple[str, str, str]], scripts: Sequence[str], without_script: str = ""
) -> str:
    """A whole page.

    Args:
        title: any text.
        about: HTML; a line below the title.
        sections: id, heading and content of each, as HTML.
        scripts: names of the files in this folder that become the page's only script.
        without_script: HTML; what a reader without JavaScript misses besides the sorting of tables.
    """
    script = "".join(map(_asset, scripts))
    links = " ".join(f'<a href="#{name}">{heading}</a>' for name, heading, _ in sections)
    body = "".join(
        f'<section id="{name}"><h2>{heading}</h2>{content}</section>\n' for name, heading, content in sections
    )
    heading = text(title)
    pictures = body.count("data:image/jpeg")
    weight = size(len(body) + len(script)) + (f", {plural(pictures, 'row')} of frames among it" if pictures else "")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{heading}</title>
<style>{_asset("report.css")}</style>
</head>
<body>
<header><h1>{heading}</h1>
<p class="soft">{about}</p>
<nav aria-label="sections">{links}</nav>
<noscript><p class="warn">Without JavaScript tables cannot be sorted{without_script}; all else is here.</p></noscript>
</header>
<main>
{body}</main>
<footer>This page is one file and loads nothing: {weight}.</footer>
<script>{script}</script>
</body>
</html>
"""


def written() -> str:
    """The time now, as pages say it."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _asset(name: str) -> str:
    return files("videogn.report").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """What a browser may load and run: this very script, pictures that are in the page, and nothing else.

    Styles are inline throughout, as in every SVG; with all addresses forbidden they can load nothing.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
