"""Rules of the code base that no linter expresses; docs/architecture.md says why each exists."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "livetalk"
MODULES = sorted(SOURCE.rglob("*.py"))
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 80

# Words of the keys in published checkpoints that this code base says otherwise.
UPSTREAM_WORDS = frozenset(
    {"audio_proj", "proj1_vf", "img_emb", "k_img", "v_img", "norm_k_img", "kv_linear", "q_linear"}
    | {"to_qkv", "upsamples", "downsamples"}
)

IMPORT_PROBE = """
import json, sys, os

opened = []


def watch(event, args):
    if event == "open" and isinstance(args[0], str) and not args[0].endswith((".py", ".pyc")):
        if not args[0].startswith(sys.base_prefix) and not args[0].startswith(sys.prefix):
            opened.append(args[0])
    if event in ("socket.__new__", "subprocess.Popen"):
        opened.append(event)

sys.addaudithook(watch)
environment = dict(os.environ)
import livetalk
print(json.dumps({
    "opened": opened,
    "heavy": [name for name in ("torch", "cv2", "av", "mediapipe", "PIL", "rich") if name in sys.modules],
    "environment_changed": environment != dict(os.environ),
    "cuda": "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized(),
}))
"""


def parse(path: Path) -> ast.Module:
    """Parse one module of the package."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name_of(path: Path) -> str:
    """Shorten a path for messages."""
    return path.relative_to(SOURCE).as_posix()


def functions_of(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def words_of(path: Path) -> set[str]:
    """Return the names and the dotted parts of the strings in a module."""
    words: set[str] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words.update(node.value.split("."))
    return words


def test_the_package_has_modules() -> None:
    assert len(MODULES) > 5, "the rules below would hold for an empty list"


def test_import_has_no_side_effects() -> None:
    probe = subprocess.run(
        [sys.executable, "-c", IMPORT_PROBE], capture_output=True, text=True, check=True, timeout=120
    )
    seen = json.loads(probe.stdout)
    assert seen == {"opened": [], "heavy": [], "environment_changed": False, "cuda": False}


def test_modules_have_docstrings() -> None:
    without = [name_of(path) for path in MODULES if not ast.get_docstring(parse(path))]
    assert not without, "the first lines of a module say what it is for"


def test_files_and_functions_stay_within_the_hard_budgets() -> None:
    long = {}
    for path in MODULES:
        num_lines = len(path.read_text(encoding="utf-8").splitlines())
        if num_lines > MAX_FILE_LINES:
            long[name_of(path)] = num_lines
        for function in functions_of(parse(path)):
            num_lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                long[f"{name_of(path)}:{function.name}"] = num_lines
    assert not long


def test_no_method_is_grafted() -> None:
    # ruff bans the name too, but a per-file ignore of one banned name lifts the ban of all.
    grafting = []
    for path in MODULES:
        for node in ast.walk(parse(path)):
            imported = isinstance(node, ast.ImportFrom) and "MethodType" in {x.name for x in node.names}
            used = isinstance(node, ast.Attribute) and node.attr == "MethodType"
            if imported or used:
                grafting.append(name_of(path))
    assert not grafting


def test_upstream_key_names_stay_in_checkpoints() -> None:
    used = {}
    for path in MODULES:
        if path.relative_to(SOURCE).parts[0] != "checkpoints" and (words := words_of(path) & UPSTREAM_WORDS):
            used[name_of(path)] = words
    assert not used


def test_weights_are_loaded_strictly() -> None:
    lenient = [
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") == "load_state_dict"
        and any(word.arg == "strict" and ast.unparse(word.value) != "True" for word in node.keywords)
    ]
    assert not lenient


def imported_by(module: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after importing a module."""
    program = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["assembly.build", "training.job", "bench.chunks", "engine.worker"])
def test_models_are_built_trained_and_timed_without_opencv(module: str) -> None:
    assert not imported_by(f"livetalk.{module}") & {"cv2", "av"}


def test_no_package_is_larger_than_twenty_files() -> None:
    folders = {path.parent for path in MODULES}
    assert {name_of(folder): n for folder in folders if (n := len(list(folder.glob("*.py")))) > 20} == {}


# Where work enters from outside, and what has no gradient by its nature.
GRADIENTS_OFF = ("cli", "compat", "engine", "numerics", "doctor", "evaluation", "training", "datasets")
GRADIENTS_OFF += ("synthetic", "assembly/published.py", "assembly/random_prompt.py")


def test_gradients_are_switched_off_at_entry_points_only() -> None:
    users = {
        name_of(path)
        for path in MODULES
        if {"no_grad", "inference_mode"}
        & {node.attr for node in ast.walk(parse(path)) if isinstance(node, ast.Attribute)}
    }
    assert users
    assert [name for name in sorted(users) if not name.startswith(GRADIENTS_OFF)] == []
