"""The direction of imports, as a picture of the project: who may know whom."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "videogn"

# room -> the rooms of this package that it may import
ALLOWED = {
    "errors": set(),
    "stopping": set(),
    "launching": {"errors"},
    "spec": set(),
    "norms": set(),
    "blocks": {"norms"},
    "i3d": {"blocks", "norms"},
    "cost": set(),
    "memory": {"norms"},
    "plan": {"cost", "errors", "memory", "optim", "spec", "training_cli"},
    "fold": {"blocks", "norms"},
    "optim": {"errors", "norms"},
    "results": {"data.files", "errors"},
    "loggers": {"data.files", "errors", "results"},
    "evaluation": {"results"},
    "evaluation_module": {"evaluation", "results"},
    "checkpoint_storage": {"errors"},
    "checkpoint_card": {"errors", "spec"},
    "checkpoint": {"checkpoint_card", "checkpoint_storage", "errors"},
    "checkpoint_files": {"checkpoint", "errors"},
    "weights": {"checkpoint", "errors", "fold", "i3d", "norms", "spec"},
    "run_setup": {"errors", "i3d", "norms", "spec", "weights"},
    "run_options": {"errors"},
    "data": {"errors", "launching", "spec"},
    "module": {
        "blocks",
        "checkpoint",
        "data.transforms",
        "errors",
        "evaluation_module",
        "i3d",
        "optim",
        "run_setup",
        "spec",
        "weights",
    },
    "callbacks": {
        "checkpoint",
        "cost",
        "data.files",
        "data.cores",
        "data.loader",
        "errors",
        "loggers",
        "memory",
        "norms",
        "optim",
        "results",
        "stopping",
    },
    "report": {
        "data.decode",
        "data.files",
        "data.images",
        "data.progress",
        "data.sampling",
        "data.transforms",
        "data.view",
        "errors",
        "results",
        "spec",
    },
    "report_cli": {"report"},
    "study": {
        "callbacks.records",
        "data.files",
        "data.cores",
        "data.progress",
        "data.samplers",
        "errors",
        "launching",
        "memory",
        "optim",
        "plan",
        "report",
        "results",
        "run_setup",
        "stopping",
    },
    "study_cli": {"data.files", "errors", "stopping", "study"},
    "lanes": {"data.batches", "module", "spec"},
    "classify": {"data", "errors", "inference", "lanes", "module", "spec"},
    "timeline": {"data", "errors", "inference", "lanes", "module", "spec"},
    "timeline_files": {"data", "errors", "module", "results", "spec", "timeline"},
    "classify_cli": {"classify", "data", "errors", "inference", "lanes", "spec", "timeline_files"},
    "inference": {
        "checkpoint",
        "data.batches",
        "data.decode",
        "data.sampling",
        "data.transforms",
        "errors",
        "fold",
        "i3d",
        "module",
        "spec",
    },
    "training_cli": {
        "callbacks",
        "checkpoint",
        "data.datamodule",
        "errors",
        "launching",
        "loggers",
        "module",
        "run_options",
        "spec",
        "stopping",
        "video_parser",
        "weights",
    },
    "video_parser": set(),
    "pretrain_cli": {"data.datamodule_images", "errors", "training_cli"},
    "weights_cli": {
        "checkpoint",
        "data.classes",
        "data.demo",
        "data.motions",
        "data.transforms",
        "errors",
        "inference",
        "spec",
        "weights",
    },
    "cli": {
        "classify_cli",
        "data_cli",
        "errors",
        "launching",
        "plan",
        "pretrain_cli",
        "report_cli",
        "stopping",
        "study_cli",
        "training_cli",
        "weights_cli",
    },
    "data_cli": {"data", "errors"},
}
LIGHTNING = {
    "module",
    "evaluation_module",
    "data.datamodule",
    "callbacks",
    "loggers",
    "run_options",
    "training_cli",
    "video_parser",
    "pretrain_cli",
}
CODECS = {"data.decode", "data.demo", "data.encode"}


def imports(path: Path) -> set[str]:
    """Modules a file imports at run time; imports for type checkers alone do not count."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            parents = path.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()
            module = ".".join([*parents, node.module])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def files() -> dict[str, Path]:
    """Dotted name inside the package -> file, without the package's own entry points."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).as_posix() not in ("__init__.py", "__main__.py")
    }


def room(name: str) -> str:
    return name.split(".")[0]


def is_in(name: str, rooms: set[str]) -> bool:
    return any(name == r or name.startswith((f"{r}.", f"{r}_")) for r in rooms)


def test_every_file_is_in_a_room():
    assert {room(name) for name in files()} == set(ALLOWED)


def test_imports_go_one_way():
    names = set(files())
    for name, path in files().items():
        inside = {m.removeprefix("videogn.") for m in imports(path) if m.startswith("videogn.")} & names
        wrong = {m for m in inside if room(m) != room(name) and not is_in(m, ALLOWED[room(name)])}
        assert not wrong, f"{name} imports {wrong}"


def test_lightning_and_codecs_stay_in_their_rooms():
    for name, path in files().items():
        roots = {m.split(".")[0] for m in imports(path)}
        assert not roots & {"lightning", "pytorch_lightning"} or is_in(name, LIGHTNING), name
        assert not roots & {"av", "decord", "torchcodec"} or is_in(name, CODECS), name
        assert "scripts" not in roots, name
        if room(name) == "norms":
            assert roots <= {*sys.stdlib_module_names, "torch", "videogn"}, (name, roots)


def test_help_and_the_index_do_without_torch():
    for statement in (
        "from videogn.cli import _parser; _parser().format_help()",
        "import videogn.spec, videogn.errors, videogn.data.index",
        "import videogn.study_cli",  # a wrong option is told at once
    ):
        code = f"{statement}; import sys; assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True)
