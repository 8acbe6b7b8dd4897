"""A report in a real browser: numbers read off it, a table sorted, the confusion matrix used, names shown as text."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from report_runs import draw_results, scores, write_run

from videogn.report.page import write_report

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

EVIL = "<img src=x onerror=alert(1)>"
NAMES = ["archery", EVIL, "$\\frac{1}{2}$ </script><script>alert(2)</script>", "\"quoted\" 'class' &amp;", "tai chi"]
LABELS = [i % len(NAMES) for i in range(60)]
PATHS = [f"/videos/{i}/{EVIL} & \udce9.mp4" if i % 2 else f"/videos/{i}.mp4" for i in range(60)]
CLASSES = 400
MANY = [f"class {(i * 37) % CLASSES:03d}" for i in range(CLASSES)]  # in no order


def chromium(playwright) -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    path = playwright.chromium.executable_path
    if not os.path.exists(path):
        pytest.skip("no Chromium: neither on PATH nor playwright's own")
    return path


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        # Root in a container may not make the namespaces of Chromium's sandbox; the page is this test's own.
        started = playwright.chromium.launch(executable_path=chromium(playwright), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def runs(browser):
    """Results by run; after ``browser``, so that nothing is computed where there is none."""
    return {
        "bn": draw_results(LABELS, PATHS, len(NAMES), skill=1.5, seed=1, failed=(3,)),
        "gn": draw_results(LABELS, PATHS, len(NAMES), skill=2.5, seed=2, failed=(3,)),
    }


@pytest.fixture(scope="module")
def small(runs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    folders = [str(write_run(folder / name, results, NAMES, norm=name)) for name, results in runs.items()]
    return Path(write_report(folders, str(folder / "report.html"), sheets=4))


@pytest.fixture(scope="module")
def wide_results(browser):
    labels = np.random.default_rng(0).integers(0, CLASSES, 3000).tolist()
    paths = [f"{i}.mp4" for i in range(len(labels))]
    return draw_results(labels, paths, CLASSES, skill=3.5, clips=1)


@pytest.fixture(scope="module")
def wide(wide_results, tmp_path_factory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("wide") / "gn", wide_results, MANY, clips=1)
    return Path(write_report([str(folder)], sheets=0))


class Watched:
    """A page, and everything that it should not do."""

    def __init__(self, browser, path: Path, **options) -> None:
        self.context = browser.new_context(viewport={"width": 1200, "height": 900}, **options)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("console", lambda message: self.faults.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self._request(request.url, path.as_uri()))
        self.page.goto(path.as_uri())

    def _request(self, url: str, own: str) -> None:
        if url != own and not url.startswith("data:image/jpeg;"):
            self.faults.append(f"request: {url}")

    def __enter__(self):
        return self.page

    def __exit__(self, *error) -> None:
        self.context.close()
        if error[0] is None:
            assert not self.faults


def cells(page, table: str) -> list[list[str]]:
    return page.eval_on_selector_all(
        f"#{table} tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )


def shown(share: float) -> str:
    return f"{100 * share:.1f}"


def test_headline_numbers_are_those_of_the_data(browser, small, runs):
    with Watched(browser, small) as page:
        rows = cells(page, "headline")
        assert len(rows) == 2
        for row, (name, results) in zip(rows, runs.items(), strict=True):
            assert row[0].startswith(name)
            good = [r for r in results if r.error is None]
            top1 = np.mean([r.classes[0] == r.label for r in good])
            top5 = np.mean([r.label in r.classes for r in good])
            clip_top1 = np.mean([view == r.label for r in good for view in r.view_top1])
            loss = np.mean([-np.log(r.label_probability) for r in good])
            found = [cell.split()[0] for cell in row[1:4]]
            assert found == [shown(top1), shown(top5), shown(clip_top1)]
            assert row[5].split()[0] == f"{loss:.3f}"
            assert row[7:] == ["60", "1"]
            assert top1 == pytest.approx(scores(results)["top1"])
            low, high = map(float, re.findall(r"[\d.]+", row[1])[1:])
            assert low < 100 * top1 < high
        paired = cells(page, "paired")[0]
        both = [
            (a.label_rank == 0, b.label_rank == 0)
            for a, b in zip(runs["bn"], runs["gn"], strict=True)
            if a.error is None and b.error is None
        ]
        counts = [both.count(case) for case in ((True, True), (True, False), (False, True), (False, False))]
        assert list(map(int, paired[4:])) == counts


def test_per_class_table_sorts_and_filters(browser, small, runs):
    good = [r for r in runs["gn"] if r.error is None]
    accuracy = {
        name: np.mean([r.classes[0] == i for r in good if r.label == i]) for i, name in enumerate(map(str.strip, NAMES))
    }
    with Watched(browser, small) as page:
        assert [row[0] for row in cells(page, "classes")] == NAMES
        head = page.locator("#classes thead th", has_text="gn top-1")
        column = head.evaluate("cell => cell.cellIndex")
        head.click()
        rows = cells(page, "classes")
        assert [row[column] for row in rows] == sorted((shown(v) for v in accuracy.values()), key=float)
        assert all(row[column] == shown(accuracy[row[0]]) for row in rows)
        assert head.get_attribute("aria-sort") == "ascending"
        head.locator("button").press("Enter")
        rows = cells(page, "classes")
        assert [row[column] for row in rows] == sorted((shown(v) for v in accuracy.values()), key=float, reverse=True)
        assert head.get_attribute("aria-sort") == "descending"
        page.fill("[data-filter=classes]", "TAI")
        assert page.locator("#classes tbody tr:visible").count() == 1


def test_names_and_paths_are_text(browser, small, tmp_path):
    with Watched(browser, small) as page:
        assert page.locator("img:not([src^='data:image/jpeg'])").count() == 0
        assert page.locator("script").count() == 2
        assert page.locator("#classes th", has_text=EVIL).count() == 1
        assert page.locator(".path", has_text=EVIL).count() > 0
        assert "\\xe9.mp4" in page.inner_text("#mistakes")
        assert "ends in the middle of a frame" in page.inner_text("#failed")
        page.select_option("#matrix-order", "number")
        page.focus("#matrix canvas")
        page.keyboard.press("Home")
        for name in NAMES:
            lines = page.inner_text("#matrix-tip").splitlines()
            assert lines[:2] == [f"true: {name}", f"predicted: {name}"]
            page.keyboard.press("ArrowDown")
            page.keyboard.press("ArrowRight")
        page.screenshot(path=tmp_path / "report.png", full_page=True)
    assert (tmp_path / "report.png").stat().st_size > 50_000


def test_svg_ids_are_unique(browser, small):
    with Watched(browser, small) as page:
        ids = page.eval_on_selector_all("[id]", "elements => elements.map(element => element.id)")
        assert len(ids) == len(set(ids))
        missing = page.evaluate(
            "[...document.querySelectorAll('use')].filter(u => !document.querySelector(u.href.baseVal))"
        )
        assert not missing


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_does_not_scroll_sideways(browser, small, wide, tmp_path, scheme):
    for path in (small, wide):
        with Watched(browser, path, color_scheme=scheme) as page:
            page.set_viewport_size({"width": 390, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            page.screenshot(path=tmp_path / "phone.png")


def test_without_javascript_all_but_the_matrix_is_there(browser, small):
    with Watched(browser, small, java_script_enabled=False) as page:
        assert page.locator("#classes tbody tr").count() == len(NAMES)
        assert page.locator("noscript").count() == 2
        assert page.locator("svg[role=img]").count() >= 5


def tip(page) -> tuple[str, str, int, int]:
    """True class, predicted class, videos in the cell, videos of the true class."""
    found = re.match(r"true: (.*)\npredicted: (.*)\n.*: (\d+) of (\d+) videos", page.inner_text("#matrix-tip"))
    assert found, page.inner_text("#matrix-tip")
    return found[1], found[2], int(found[3]), int(found[4])


def test_confusion_matrix_of_400_classes(browser, wide, wide_results, tmp_path):
    counts = np.zeros((CLASSES, CLASSES), int)
    for result in wide_results:
        counts[result.label, result.classes[0]] += 1

    def right(page):
        true, predicted, count, videos = tip(page)
        row, column = MANY.index(true), MANY.index(predicted)
        assert (count, videos) == (counts[row, column], counts[row].sum())
        return true, predicted, count

    with Watched(browser, wide) as page:
        canvas = page.locator("#matrix canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        found = set()
        for share in np.linspace(0.25, 0.6, 8):  # along the diagonal, where cells are smaller than two pixels
            page.mouse.move(box["x"] + 150 + share * 600, box["y"] + 22 + share * 600)
            found.add(right(page))
        assert len(found) == 8
        assert any(count for _, _, count in found)

        page.select_option("#matrix-order", "name")
        canvas.focus()
        page.keyboard.press("Home")
        assert right(page)[:2] == ("class 000", "class 000")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert right(page)[:2] == ("class 001", "class 002")
        page.keyboard.press("End")
        assert right(page)[:2] == ("class 399", "class 399")

        busy = int(counts.sum(axis=1).argmax())
        page.fill("#matrix-filter", MANY[busy])
        kept = set(np.flatnonzero(counts[busy])) | set(np.flatnonzero(counts[:, busy])) | {busy}
        assert page.inner_text("#matrix-shown") == f"{len(kept)} of {CLASSES} classes"
        page.fill("#matrix-filter", "")

        page.select_option("#matrix-order", "accuracy")
        accuracy = np.diag(counts) / np.maximum(counts.sum(axis=1), 1)
        canvas.focus()
        page.keyboard.press("Home")
        worst = MANY.index(right(page)[0])
        assert accuracy[worst] == accuracy[counts.sum(axis=1) > 0].min()

        pixels = "canvas => canvas.toDataURL()"
        before = canvas.evaluate(pixels)
        for _ in range(8):
            page.keyboard.press("+")
        assert canvas.evaluate(pixels) != before
        page.locator("#confusion").screenshot(path=tmp_path / "matrix.png")
        page.keyboard.press("Shift+ArrowRight")
        assert right(page)[2] > 0
        page.click("#matrix-all")
