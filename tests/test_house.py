"""Rules of the house that a reader of one file cannot check: who may import what, who may do what, and what is said."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mmjax", "feeds", "exec")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in FILES}
FRONT = {name for name in TREES if re.fullmatch(r"mmjax/(\w+_)?cli\.py", name)} | {"mmjax/__main__.py"}
CORE = [name for name in TREES if name.startswith("mmjax/") and name not in FRONT]

NO_JAX = (
    [name for name in TREES if name.startswith(("feeds/", "exec/paper/"))]
    + [f"exec/{part}.py" for part in (
        "orders", "reconcile", "guard", "budget", "ledger", "sign", "wire", "journal", "queue", "account", "outbox",
        "reader", "roster", "terms", "venue", "trace", "errors", "screen",
    )]
)  # fmt: skip


def imports(tree: ast.AST) -> set[str]:
    """Modules named by import statements, anywhere in a file; `from a import b` counts as a and a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


IMPORTS = {name: imports(tree) for name, tree in TREES.items()}


def importers(module: str) -> set[str]:
    """Files that import a module or anything below it."""
    return {
        name for name, found in IMPORTS.items() if any(one == module or one.startswith(module + ".") for one in found)
    }


def roots(name: str) -> set[str]:
    return {one.split(".")[0] for one in IMPORTS[name]}


# --- roads


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_neither_edge_nor_the_world(name):
    allowed = {"pathlib", "tomllib"} if name == "mmjax/config.py" else set()
    world = {
        "feeds", "exec", "asyncio", "os", "io", "sys", "time", "datetime", "logging", "pathlib", "tomllib", "random",
        "socket", "subprocess", "threading", "tempfile", "aiohttp", "websockets", "typer", "rich",
    }  # fmt: skip
    assert not roots(name) & (world - allowed)


def test_feeds_do_not_know_exec():
    assert not {name for name in importers("exec") if name.startswith("feeds/")}


def test_nobody_knows_the_laboratory():
    assert {name for name in importers("exec.lab") if not name.startswith("exec/lab/")} <= FRONT


def test_only_the_front_door_joins_the_packages():
    assert {name for name in importers("exec") if name.startswith("mmjax/")} <= FRONT
    assert {name for name in importers("feeds") if name.startswith("mmjax/")} <= FRONT


def test_nobody_hides_the_builtin_exec():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "exec" and alias.asname is None for alias in node.names), (
                    name
                )


def test_sockets_live_in_three_shells():
    assert importers("websockets") == {"feeds/link.py"}
    assert importers("aiohttp") == {"exec/venue.py", "exec/paper/server.py"}
    assert not importers("socket") and not importers("requests") and not importers("urllib.request")


def test_processes_meet_in_one_place():
    assert importers("jax.experimental.multihost_utils") == {"exec/lab/hosts.py"}
    joining = {name for name, tree in TREES.items() if calls(tree, "jax.distributed.initialize")}
    assert joining == {"exec/lab/hosts.py"} and not importers("jax.distributed")


def test_the_paper_venue_does_not_know_the_trader():
    trader = {name for name in TREES if name.startswith("exec/") and not name.startswith(("exec/paper/", "exec/lab/"))}
    for name in TREES:
        if name.startswith("exec/paper/"):
            used = {one for one in IMPORTS[name] if one.startswith("exec.") and not one.startswith("exec.paper")}
            assert not used, name
    for name in trader:
        assert not any(one.startswith("exec.paper") for one in IMPORTS[name]), name


def reach(name: str) -> set[str]:
    """Files of ours that importing a file brings in."""
    found, ahead = set(), [name]
    while ahead:
        here = ahead.pop()
        if here in found:
            continue
        found.add(here)
        for one in IMPORTS[here]:
            for path in (one.replace(".", "/") + ".py", one.replace(".", "/") + "/__init__.py"):
                ahead += [path] if path in TREES else []
    return found


@pytest.mark.parametrize("name", sorted(NO_JAX))
def test_the_edges_do_not_import_jax_themselves(name):
    assert "jax" not in roots(name)


@pytest.mark.parametrize(
    "name", ["orders", "reconcile", "guard", "budget", "ledger", "sign", "wire", "journal", "queue"]
)
def test_the_last_line_of_defence_runs_without_jax(name):
    assert not {one for one in reach(f"exec/{name}.py") if "jax" in roots(one)}


# --- what may be done where


def calls(tree: ast.AST, *names: str) -> list[int]:
    """Lines on which a function of one of these (dotted) names is called."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in names]


def test_only_the_front_door_prints():
    for name, tree in TREES.items():
        assert name in FRONT or not calls(tree, "print", "sys.stdout.write", "sys.stderr.write"), name


def test_time_and_chance_come_through_seams():
    clocks = ("time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "datetime.now", "datetime.utcnow")
    chance = ("random.random", "uuid.uuid4", "os.urandom", "np.random.rand", "np.random.seed", "time.sleep")
    for name, tree in TREES.items():
        assert name == "feeds/clock.py" or not calls(tree, *clocks), name
        assert not calls(tree, *chance), name
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.random.default_rng":
                assert node.args, f"{name}:{node.lineno}: a generator without a seed"


CATCHES_ALL = {"mmjax/cli.py"}  # the last resort: a message in place of a traceback


def test_no_except_hides_what_it_does_not_know():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{name}:{node.lineno}: bare except"
                caught = ast.unparse(node.type)
                if re.search(r"\b(Exception|BaseException)\b", caught):
                    assert name in CATCHES_ALL, f"{name}:{node.lineno}: except {caught}"
        assert name in CATCHES_ALL or not calls(tree, "contextlib.suppress(Exception)"), name


def test_no_assertion_guards_money():
    for name, tree in TREES.items():
        if name.startswith("exec/") and not name.startswith("exec/paper/"):
            assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)], name


# --- what is said


def public(tree: ast.Module) -> list[ast.AST]:
    """Top-level functions and classes, and methods of public classes, without a leading underscore."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found.append(node)
            if isinstance(node, ast.ClassDef) and node.name != "Protocol":
                found += [
                    child
                    for child in node.body
                    if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_")
                ]
    return found


@pytest.mark.parametrize("name", sorted(TREES))
def test_everything_public_says_what_it_is(name):
    tree = TREES[name]
    assert ast.get_docstring(tree) or not tree.body, name
    silent = [
        f"{node.name} (line {node.lineno})"
        for node in public(tree)
        if not ast.get_docstring(node) and not _is_plain_override(tree, node)
    ]
    assert not silent, silent


def _is_plain_override(tree: ast.Module, node: ast.AST) -> bool:
    """A method whose class inherits from a documented one of the same file, or is private, need not repeat it."""
    for owner in ast.walk(tree):
        if isinstance(owner, ast.ClassDef) and node in owner.body:
            return bool(owner.bases)
    return False


FORBIDDEN = {
    "machine paths": r"(?<![\w.])/(?:work|home|root|Users|farm)/",
    "package hosts": r"pypi\.org|pythonhosted|conda\.(?:io|anaconda)|files\.pythonhosted",
    "modules of no concept": r"\b(?:utils|helpers)\b\s*import|import\s+(?:utils|helpers)\b",
}


@pytest.mark.parametrize("path", sorted(
    path for folder in (*PACKAGES, "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
), ids=lambda path: path.relative_to(ROOT).as_posix())  # fmt: skip
def test_no_words_that_belong_to_one_machine(path):
    if path == Path(__file__).resolve():
        pytest.skip("this file names them")
    text = path.read_text()
    for what, pattern in FORBIDDEN.items():
        found = re.search(pattern, text)
        assert not found, f"{what}: {found.group(0)!r} in line {text[: found.start()].count(chr(10)) + 1}"


def test_no_file_is_named_after_nothing():
    vague = {"utils", "helpers", "helper", "manager", "misc", "common", "engine2", "v2"}
    assert not [name for name in TREES if Path(name).stem in vague]
