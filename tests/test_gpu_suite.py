"""The GPU suite, on a CPU: every path of it but CUDA's kernels."""

import contextlib
import functools
import itertools
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import gpu_suite
import gpu_suite_correctness as correctness
import gpu_suite_plan as plans
import gpu_suite_run as running
import gpu_suite_timing as timing
from gpu_suite_report import report
from gpu_suite_sites import norm_sites, site_groups
from gpu_suite_steps import eval_groups, step_groups

pytestmark = pytest.mark.slow  # every section of the suite

SCRIPTS = Path(gpu_suite.__file__).parent
CPU = torch.device("cpu")
SECTIONS = ["correctness", "sites", "steps", "evaluation"]
ABSENT = ("av", "decord", "torchcodec", "lightning", "pytorch_lightning", "jsonargparse", "torchmetrics", "rich")
IDENTITY = ("norm", "memory", "dtype", "shape", "format", "mean", "compiled", "site", "batch", "op", "frames", "clip")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Results and printed tables of a whole run, where only what the suite says that it needs can be imported."""
    path = tmp_path_factory.mktemp("suite") / "results.json"
    code = f"import sys, runpy; sys.modules.update(dict.fromkeys({ABSENT})); sys.path.insert(0, {str(SCRIPTS)!r})"
    code += "; runpy.run_module('gpu_suite', run_name='__main__')"
    command = [sys.executable, "-c", code, "--tiny", "--device", "cpu", "--out", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text()), done.stdout


def keys(document):
    """What the rows are, without what was measured."""
    return [
        (name, *(row.get(word) for word in IDENTITY))
        for name, section in document["sections"].items()
        for row in section["rows"]
    ]


def test_every_section_measures(tiny):
    document, printed = tiny
    assert list(document["sections"]) == SECTIONS
    assert document["finished"]
    for name, section in document["sections"].items():
        rows = section["rows"]
        assert any(row["status"] == "ok" for row in rows), name
        for row in rows:
            assert row["status"] in ("ok", "skipped: torch.compile is measured on CUDA alone"), row
        assert f"== {name}" in printed
    for row in document["sections"]["correctness"]["rows"]:
        assert row.get("worst", 0.0) <= 1.0
    environment = document["environment"]
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
    assert environment["tiny"]
    assert str(Path.home()) not in json.dumps(environment)
    assert max(map(len, printed.splitlines())) <= 120


def test_every_norm_is_checked(tiny):
    rows = tiny[0]["sections"]["correctness"]["rows"]
    layers = {(row["norm"], row["dtype"], row["format"], row["mean"]) for row in rows if "shape" in row}
    formats = ("contiguous", "channels_last_3d")
    norms = (*correctness.NORMS, "gn_native")
    wanted = set(itertools.product(norms, ("float32", "bfloat16", "float16"), formats, (0.0,)))
    wanted |= set(itertools.product(norms, ("float32",), formats, (1000.0,)))
    assert layers == wanted
    options = {(row["norm"], row["memory"]) for row in rows if "memory" in row}
    assert options == set(itertools.product(("gn", "bn"), plans.MEMORY_OPTIONS))


def test_what_is_out_of_time_is_listed(tiny, tmp_path, capsys):
    path = tmp_path / "results.json"
    assert gpu_suite.main(["--tiny", "--device", "cpu", "--minutes", "0.01", "--out", str(path)]) == 0
    document = json.loads(path.read_text())
    assert keys(document) == keys(tiny[0])
    assert len(set(keys(document))) == len(keys(document))
    for name, section in document["sections"].items():
        statuses = [row["status"] for row in section["rows"]]
        assert running.OUT_OF_TIME in statuses, name
        assert running.NOT_REACHED not in statuses, name
    assert "skipped: out of time" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--minutes", "0"], ["--device", "tpu"], ["--device", "cuda"]])
def test_wrong_command_lines(arguments, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        gpu_suite.main(arguments)
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_the_sites_of_the_network():
    sites = dict(norm_sites(plans.full_plan(CPU)))
    assert sum(sites.values()) == 53
    # Stem; res2 before pool2 halves the frames; res3's first convolution before its stride; the last stage.
    some = {(64, 32, 112, 112): 1, (64, 32, 56, 56): 6, (256, 32, 56, 56): 4, (128, 16, 56, 56): 1, (2048, 16, 7, 7): 4}
    assert some.items() <= sites.items()
    values = [torch.Size(shape).numel() * count for shape, count in sites.items()]
    assert values == sorted(values, reverse=True)


def test_important_steps_come_first():
    groups = [group.keys[0] for group in step_groups(plans.full_plan(CPU))]
    sizes = [(key["frames"], key["batch"], key["compiled"]) for key in groups]
    assert sizes[:5] == [(32, 1, False), (32, 8, False), (32, 8, True), (64, 1, False), (64, 8, False)]
    assert sorted(sizes) == sorted(itertools.product((32, 64), (1, 2, 4, 8), (False, True)))
    variants = {(key["norm"], key["memory"]) for key in step_groups(plans.full_plan(CPU))[0].keys}
    assert {("bn", plans.KEEP), ("torch_gn", plans.KEEP), ("gn", "standard"), ("gn", "lowest")} <= variants


class OneWrong(nn.GroupNorm):
    """A group norm that forgets the last element."""

    def forward(self, input):
        out = super().forward(input)
        return torch.cat([out.flatten()[:-1], out.flatten()[-1:] * 0]).view_as(out)


class NaiveVariance(nn.GroupNorm):
    """The variance as E[x²] - E[x]², in float32."""

    def forward(self, input):
        x = input.reshape(len(input), self.num_groups, -1)
        mean, square = x.mean(2, keepdim=True), x.square().mean(2, keepdim=True)
        x = ((x - mean) * (square - mean.square() + self.eps).clamp_min(0).rsqrt()).view_as(input)
        shape = (1, -1, *[1] * (input.dim() - 2))
        return x * self.weight.view(shape) + self.bias.view(shape)


@pytest.mark.parametrize(
    ("layer", "mean", "dtype"),
    [(OneWrong, 0.0, torch.bfloat16), (NaiveVariance, correctness.LARGE_MEAN, torch.float32)],
)
def test_wrong_layers_fail(layer, mean, dtype, monkeypatch):
    wants = []
    for made in (nn.GroupNorm, layer):
        monkeypatch.setattr(correctness, "make_norm", lambda _, made=made: lambda channels: made(4, channels))
        case = correctness._Case(CPU, "gn", (2, 8, 4, 16, 16), mean)
        wants.append(case.want)
        case.want, case.layer = wants[0], case.layer.to(dtype)  # the right layer's results for both
        row = running.attempt(functools.partial(case.check, dtype, "contiguous"))
        right = [row["errors"][key] <= row["limits"][key] for key in ("output", "grad_input")]
        assert all(right) == (made is nn.GroupNorm), row
    assert row["status"] == "failed"
    assert "output: error" in row["message"]


def test_failures_are_rows(tmp_path, monkeypatch):
    def fail(error):
        raise error

    outcomes = {
        "ok": lambda: {"ms": math.inf},
        "out of memory": lambda: fail(torch.OutOfMemoryError("CUDA out of memory")),
        "error": lambda: fail(RuntimeError("no\nkernel")),
        "skipped: no compiler": lambda: fail(running.Skipped("no compiler")),
        running.OUT_OF_TIME: lambda: fail(running.OutOfTime()),
    }
    groups = [running.Group([{"row": name}], lambda _, f=f: [f()]) for name, f in outcomes.items()]
    groups.append(running.Group([{"row": "long"}], lambda _: [{}], seconds=1e6))
    results = running.Results(tmp_path / "r.json", {})
    sections = [running.Section("one", 1.0, lambda: groups), running.Section("two", 1.0, lambda: fail(KeyError("x")))]
    running.run_sections(sections, results, running.Budget(time.monotonic() + 100))
    document = json.loads((tmp_path / "r.json").read_text())
    rows = {row["row"]: row for row in document["sections"]["one"]["rows"]}
    assert {name: row["status"] for name, row in rows.items()} == {name: name for name in outcomes} | {
        "long": running.OUT_OF_TIME
    }
    assert rows["ok"]["ms"] == "inf"
    assert rows["error"]["message"] == "RuntimeError: no kernel"
    assert document["sections"]["two"]["rows"][0]["message"] == "KeyError: 'x'"


def test_a_failed_check_is_exit_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(correctness, "limit", lambda *_: 1e-12)
    monkeypatch.setattr("gpu_suite_network.network_groups", lambda _: [])
    for section in ("site", "step", "eval"):
        module = "gpu_suite_sites" if section == "site" else "gpu_suite_steps"
        monkeypatch.setattr(f"{module}.{section}_groups", lambda _: [])
    assert gpu_suite.main(["--tiny", "--device", "cpu", "--out", str(tmp_path / "r.json")]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_a_compilation_ends_with_the_time():
    budget = running.Budget(time.monotonic() + 0.2)
    begin = time.monotonic()

    def compile_for_ever():
        with budget.stop_at_the_end():
            while True:
                with contextlib.suppress(Exception):
                    time.sleep(0.01)

    assert running.attempt(compile_for_ever)["status"] == running.OUT_OF_TIME
    assert time.monotonic() - begin < 5


def test_sections_share_the_time(tmp_path):
    left = []
    groups = [running.Group([{"row": 1}], lambda budget: left.append(budget.left()) or [{}])]
    sections = [running.Section(str(i), share, lambda: groups) for i, share in enumerate((1.0, 3.0, 4.0))]
    results = running.Results(tmp_path / "r.json", {})
    running.run_sections(sections, results, running.Budget(time.monotonic() + 800))
    # Nothing is used: 1/8 of 800 s, 3/7 of the same 800 s, all of them.
    assert left == pytest.approx([100, 3 / 7 * 800, 800], abs=5)


def test_cuda_timing_takes_the_median_of_the_events(monkeypatch):
    clock, calls, waits = [0.0], [], []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = clock[0]

        def elapsed_time(self, end):
            return end.at - self.at

    def call():
        calls.append(None)
        clock[0] += 9.0 if len(calls) % 7 == 0 else 2.0  # now and then a slow one

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "_sleep", waits.append)
    measured = timing.time_call(call, torch.device("cuda"), 20.0)
    assert measured.ms == 2.0
    assert len(calls) == 3 + 3 + 25  # warm-up, probes, and as many repetitions as are allowed of so short a call
    assert len(waits) == 1
    assert isinstance(waits[0], int)


def test_interleaved_calls_drop_what_fails():
    order = []

    def fail():
        raise torch.OutOfMemoryError("full")

    calls = {"a": lambda: order.append("a"), "b": fail, "c": lambda: order.append("c")}
    rows = timing.interleave(calls, CPU, (2, 2), 0.0)
    assert rows["b"]["status"] == "out of memory"
    assert rows["a"]["rounds"] == 2
    assert rows["a"]["ms_min"] <= rows["a"]["ms"] <= rows["a"]["ms_max"]
    assert order == ["a", "c", *"aaaccc"]


def test_report_of_a_gpu():
    """Numbers that only a GPU gives: peak memory, and an out-of-memory row among the others."""
    key = {"norm": "gn", "memory": "low", "compiled": False}
    steps = [
        {**key, "frames": 32, "batch": 1, "status": "ok", "ms": 12.34, "peak_mib": 2048.0},
        {**key, "frames": 32, "batch": 8, "status": "out of memory", "message": "OutOfMemoryError: CUDA"},
        {**key, "frames": 64, "batch": 8, "status": running.OUT_OF_TIME},
    ]
    environment = {"device": "cuda", "gpu": "G", "versions": {"torch": "2", "triton": None}, "cuda": "13", "date": ""}
    lines = report(environment, {"steps": {"seconds": 1.0, "rows": steps}}).splitlines()
    assert lines[2] == "== steps (1 s): 1 ok, 1 out of memory, 1 skipped: out of time"
    assert [line.split() for line in lines if line.startswith("gn low")] == [
        ["gn", "low", "12.3", "OOM", "-"],
        ["gn", "low", "2048", "OOM", "-"],
    ]
    assert "    OutOfMemoryError: CUDA" in lines


@pytest.mark.slow
def test_compiled_paths(monkeypatch):
    """With the compiler's front half, which needs no GPU: the graphs are traced, differentiated and run eagerly."""
    monkeypatch.setattr(plans.Plan, "no_compiler", lambda _: None)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="aot_eager"))
    plan = plans.tiny_plan(CPU)
    budget = running.Budget(math.inf)
    layers = [group for group in correctness.norm_groups(plan) if group.keys[0]["compiled"]]
    sites = [group for group in site_groups(plan) if group.keys[0]["op"] == "gn_compiled"][:1]
    steps = [group for make in (step_groups, eval_groups) for group in make(plan) if group.keys[0]["compiled"]]
    monkeypatch.setattr(running.Budget, "stop_at_the_end", lambda _: contextlib.nullcontext())
    for group in [*layers, *sites, steps[0], steps[-1]]:
        for row in group.run(budget):
            assert row.get("status", "ok") == "ok", (group.keys, row)
            assert row.get("graph_breaks", 0) == 0
