"""What is installed is what was meant, and no file that is read can have code run: rules for the source, kept here."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock")
MALICIOUS = {"lightning": ("2.6.2", "2.6.3")}
PLATFORM = {  # of the lock files
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "sys_platform": "linux",
    "python_version": "3.11",
    "extra": "",
}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(extra=None):
    """What pyproject asks for on the locks' platform, the extras that extras name included."""
    lines = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    for requirement in map(Requirement, lines):
        if requirement.name == PROJECT["name"]:
            for inner in requirement.extras:
                yield from requirements(inner)
        elif requirement.marker is None or requirement.marker.evaluate(PLATFORM):
            yield requirement


def locked(name):
    """Version and hashes by name of a lock file, which may hold nothing but these."""
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    entry = re.compile(r"([a-z0-9][a-z0-9.-]*)==([^\s\\;]+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)")
    assert entry.sub("", text) == "", f"{name}: lines that are no entries"
    return {name: (version, re.findall("[0-9a-f]{64}", hashes)) for name, version, hashes in entry.findall(text)}


@pytest.mark.parametrize("name", LOCKS)
def test_lock_files_hold_versions_and_hashes_alone(name):
    entries = locked(name)
    assert len(entries) > 50
    assert all(hashes and len(set(hashes)) == len(hashes) for _, hashes in entries.values())
    assert "://" not in (ROOT / name).read_text()


@pytest.mark.parametrize(("name", "extras"), [(LOCKS[0], [None]), (LOCKS[1], [None, "dev", "test", "export"])])
def test_lock_files_agree_with_pyproject(name, extras):
    entries = locked(name)
    for extra in extras:
        for requirement in requirements(extra):
            version, _ = entries[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{name}: {requirement.name} {version} is not {requirement}"


def test_lock_files_agree_with_each_other():
    run, develop = map(locked, LOCKS)
    assert {name: develop.get(name) for name in run} == run


@pytest.mark.parametrize("name", LOCKS)
def test_no_malicious_version_fits(name):
    asked = {canonicalize_name(requirement.name): requirement.specifier for requirement in requirements()}
    for package, versions in MALICIOUS.items():
        for version in versions:
            assert not asked[package].contains(version)
            assert locked(name)[package][0] != version
    assert Version(locked(name)["pytorch-lightning"][0]) >= Version("2.6.6")  # which lightning installs beside itself


def test_what_this_project_overrides_has_an_upper_bound():
    asked = {canonicalize_name(requirement.name): requirement.specifier for requirement in requirements()}
    for package, beyond in {"lightning": "2.7", "jsonargparse": "5", "torchmetrics": "2", "torch": "3"}.items():
        assert not asked[package].contains(beyond), package
    assert all(any(part.operator in (">=", "==") for part in specifier) for specifier in asked.values())


# -- the source --------------------------------------------------------------------------------------------------------

SOURCES = [path for folder in ("videogn", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]

GUARDED = {"videogn/data/guard.py", "videogn/data/guard_child.py"}  # between a process and its own child, by pipe
RESTRICTED = {"videogn/weights/pickles.py"}  # plain values and arrays alone: tests/test_weights_untrusted.py
# Modules that no file needs: they build objects from bytes, run what they are given, or fetch something.
MODULES = """
    _pickle cPickle dill cloudpickle joblib marshal shelve fsspec urllib urllib2 urllib3 requests http httpx aiohttp
    ftplib smtplib telnetlib xmlrpc socketserver webbrowser code codeop pty runpy huggingface_hub
""".split()  # noqa: SIM905, easier to read
# Functions and classes by the end of their dotted name; with the files that may name them.
FUNCTIONS = {
    "eval": set(),
    "exec": set(),
    "__import__": set(),
    "os.system": set(),
    "os.popen": set(),
    "import_module": {
        "videogn/__init__.py",
        "videogn/data/__init__.py",
        "scripts/bench_decode_readers.py",
        "videogn/run_options.py",  # the logger that the command names
    },  # of tables
    "yaml.load": set(),
    "yaml.load_all": set(),
    "yaml.full_load": set(),
    "yaml.unsafe_load": set(),
    "pickle.load": set(),
    "pickle.loads": GUARDED,
    "pickle.Unpickler": set(),
    "pickle._Unpickler": RESTRICTED,
    "torch.jit.load": set(),
    "torch.hub.load": set(),
    "load_state_dict_from_url": set(),
    "load_from_checkpoint": set(),
    "np.load": set(),
    "numpy.load": set(),
    "extractall": set(),
    "unpack_archive": set(),
    "mktemp": set(),
}


def dotted(node):
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def breaches(text, place):
    """What in a source file is against the rules."""
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] in MODULES:
                yield f"{place}:{node.lineno}: import of {name}"
            if name in FUNCTIONS or name in ("torch.load", "torch.serialization"):
                yield f"{place}:{node.lineno}: import of {name} under a name of its own"
        if isinstance(node, ast.Import) and any(alias.name == "pickle" and alias.asname for alias in node.names):
            yield f"{place}:{node.lineno}: pickle under another name"
        if isinstance(node, ast.Attribute | ast.Name):
            name = dotted(node)
            for function, allowed in FUNCTIONS.items():
                builtin = function in ("eval", "exec")
                same = name == function if builtin else f".{name}".endswith(f".{function}")
                if same and place not in allowed:
                    yield f"{place}:{node.lineno}: {name}"
        if isinstance(node, ast.Call):
            options = {option.arg: getattr(option.value, "value", None) for option in node.keywords}
            if dotted(node.func) == "torch.load" and options.get("weights_only") is not True:
                yield f"{place}:{node.lineno}: torch.load without weights_only=True"
            if any(
                option.arg in ("shell", "allow_pickle") and options[option.arg] is not False for option in node.keywords
            ):
                yield f"{place}:{node.lineno}: a shell, or pickles in arrays"


def test_the_source_keeps_the_rules():
    found = [b for path in SOURCES for b in breaches(path.read_text(), path.relative_to(ROOT).as_posix())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "from torch import load",
        "from torch.serialization import load",
        "pickle.Unpickler(file).load()",
        "import pickle as p",
        "load = pickle.load",
        "from pickle import loads",
        "import urllib.request",
        "from urllib.request import urlopen",
        "import fsspec",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "from yaml import unsafe_load",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "eval(text)",
        "importlib.import_module(name)",
        "VideoClassifier.load_from_checkpoint(path)",
        "torch.hub.load_state_dict_from_url(address)",
    ],
)
def test_the_rules_see_what_they_are_for(line):
    assert list(breaches(line, "videogn/new.py"))


def test_the_rules_allow_what_is_safe():
    for line in ("torch.load(path, map_location='cpu', weights_only=True)", "network.eval()", "yaml.safe_load(text)"):
        assert not list(breaches(line, "videogn/new.py"))
