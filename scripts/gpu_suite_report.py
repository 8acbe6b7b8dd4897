"""The tables of the GPU suite, as text of at most 100 columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from gpu_suite_run import Row

_METHODS = {"torch_gn": "F.gn", "torch_bn": "F.bn", "gn": "ours", "gn_native": "native", "gn_compiled": "comp"}
_OPTIONS_WIDTH = 26


def report(environment: Row, sections: dict[str, Row]) -> str:
    """All sections, each with how many of its rows were measured and what went wrong."""
    tables: dict[str, Callable[[list[Row]], list[str]]] = {
        "correctness": correctness_table,
        "sites": sites_table,
        "steps": steps_table,
        "evaluation": evaluation_table,
    }
    versions = environment["versions"]
    lines = [
        f"{environment.get('gpu', environment['device'])}, torch {versions['torch']}, triton {versions['triton']}, "
        f"CUDA {environment['cuda']}, {environment['date']}",
    ]
    for name, section in sections.items():
        rows = section["rows"]
        lines += ["", f"== {name} ({section['seconds']:.0f} s): {_counts(rows)}", *tables[name](rows), *_problems(rows)]
    return "\n".join(line[:100].rstrip() for line in lines)


def _counts(rows: list[Row]) -> str:
    counts = Counter(row["status"] for row in rows)
    return ", ".join(f"{count} {status}" for status, count in counts.most_common())


def _problems(rows: list[Row]) -> list[str]:
    """Every different message of what failed, with one row that has it."""
    seen: dict[str, Row] = {}
    for row in rows:
        if row["status"] in ("failed", "error", "out of memory"):
            seen.setdefault(row.get("message", ""), row)
    lines = []
    for message, row in list(seen.items())[:12]:
        key = " ".join(str(value) for value in row.values() if isinstance(value, str | int))
        lines += [f"! {key}"[:100], f"    {message}"]
    return lines


def _grid(corner: str, columns: list[str], rows: dict[str, list[str]], first: int = 24) -> list[str]:
    width = max([9, *(len(column) + 1 for column in columns)])
    lines = [corner.ljust(first) + "".join(column.rjust(width) for column in columns)]
    return lines + [name.ljust(first) + "".join(cell.rjust(width) for cell in cells) for name, cells in rows.items()]


def _cell(rows: list[Row], show: Callable[[Row], str]) -> str:
    """One cell: the number, or in a word why there is none."""
    if not rows:
        return ""
    for status, word in (("failed", "FAILED"), ("error", "error"), ("out of memory", "OOM")):
        if any(row["status"] == status for row in rows):
            return word
    measured = [row for row in rows if row["status"] == "ok"]
    return show(max(measured, key=lambda row: row.get("worst", 0.0))) if measured else "-"


def _pick(rows: list[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def _values(rows: list[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows if key in row))


def correctness_table(rows: list[Row]) -> list[str]:
    """Largest error as a share of its limit: of layers by dtype, of memory options by norm."""
    layers, networks = [row for row in rows if "shape" in row], [row for row in rows if "memory" in row]
    dtypes = _values(layers, "dtype")
    grid = {}
    for norm in _values(layers, "norm"):
        own = _pick(layers, norm=norm)
        cells = [_pick(own, dtype=dtype, mean=0.0, compiled=False) for dtype in dtypes]
        cells += [[row for row in own if row["mean"]], _pick(own, compiled=True)]
        grid[norm] = [_cell(cell, lambda row: f"{row['worst']:.3f}") for cell in cells]
    lines = ["Largest error as a share of its limit (see the JSON for both); below 1 is right."]
    lines += _grid("layer", [*dtypes, "mean 1000", "compiled"], grid)
    columns = [(norm, dtype) for norm in _values(networks, "norm") for dtype in _values(networks, "dtype")]
    options = {
        memory: [
            _cell(_pick(networks, norm=norm, dtype=dtype, memory=memory), lambda row: f"{row['worst']:.1e}")
            for norm, dtype in columns
        ]
        for memory in _values(networks, "memory")
    }
    return lines + _grid("memory option", [" ".join(column) for column in columns], options)


def sites_table(rows: list[Row]) -> list[str]:
    """Per site the copy in ms and each method as a multiple of its floor; below, all sites of a step in ms."""
    lines = []
    for batch in _values(rows, "batch"):
        for form in _values(rows, "format"):
            own = _pick(rows, batch=batch, format=form)
            if own:
                lines += [f"batch {batch}, {form}: forward and forward+backward as multiples of the traffic floor"]
                lines += _site_grid(own)
    return lines


def _site_grid(rows: list[Row]) -> list[str]:
    keys = ("forward", "both")
    columns = ["copy ms", *(f"{name} {word}" for name in _METHODS.values() for word in ("fw", "f+b"))]
    grid = {}
    for site in _values(rows, "site"):
        own = _pick(rows, site=site)
        cells = [_cell(_pick(own, op="copy"), lambda row: f"{row['forward_ms']:.4f}")]
        for method in _METHODS:
            for key in keys:
                cells.append(_cell(_pick(own, op=method), lambda row, key=key: f"{row[f'{key}_over_floor']:.1f}"))
        grid[f"{own[0]['count']:2} x {site}"] = cells
    total = [_sum(_pick(rows, op="copy"), "forward_ms")]
    total += [_sum(_pick(rows, op=method), f"{key}_ms") for method in _METHODS for key in keys]
    return _grid("site C x T x H x W", columns, grid | {"all these sites, ms": total}, first=19)


def _sum(rows: list[Row], key: str) -> str:
    """Milliseconds of all sites together, or nothing if one is missing."""
    complete = rows and all(row["status"] == "ok" for row in rows)
    return f"{sum(row[key] * row['count'] for row in rows):.2f}" if complete else "-"


def steps_table(rows: list[Row]) -> list[str]:
    """Milliseconds per step, then peak memory in MiB, by clips."""
    clips = sorted({(row["frames"], row["batch"]) for row in rows if "frames" in row})
    names = list(dict.fromkeys((row["norm"], row["memory"], row["compiled"]) for row in rows if "norm" in row))
    lines = []
    for title, key, digits in (("ms per step", "ms", 1), ("peak MiB", "peak_mib", 0)):
        grid = {}
        for norm, memory, compiled in names:
            own = _pick(rows, norm=norm, memory=memory, compiled=compiled)
            cells = [_pick(own, frames=frames, batch=batch) for frames, batch in clips]
            name = f"{norm} {memory}{' compiled' if compiled else ''}"
            grid[name] = [_cell(cell, lambda row, k=key, d=digits: _number(row.get(k), d)) for cell in cells]
        lines += _grid(f"{title}, frames x batch", [f"{f}x{b}" for f, b in clips], grid, first=_OPTIONS_WIDTH)
    return lines


def evaluation_table(rows: list[Row]) -> list[str]:
    """Clips per second."""
    batches = _values(rows, "batch")
    grid = {}
    for norm in _values(rows, "norm"):
        for compiled in (False, True):
            own = _pick(rows, norm=norm, compiled=compiled)
            cells = [_cell(_pick(own, batch=b), lambda row: _number(row.get("clips_per_s"), 1)) for b in batches]
            grid[f"{norm}{' compiled' if compiled else ''}"] = cells
    return _grid("clips per second", [f"batch {batch}" for batch in batches], grid, first=_OPTIONS_WIDTH)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
