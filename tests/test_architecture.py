"""The arrows of docs/architecture.md: who may import whom, what stays free of torch, who may name versions."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "light_tts"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "assets/builtin" not in path.as_posix())

# A part may import parts of the layers below its own; parts that are not listed are glue and may import any.
LAYERS = ("server", "engine", "stage", "models", "kernels", "base")
STAGES = ("frontend", "llm", "acoustic")
LAYER_OF = {
    **dict.fromkeys(("server", "frontdoor", "deploy", "bench", "compat", "commands"), "server"),
    "engine": "engine", "models": "models", "kernels": "kernels", "client": "kernels", **dict.fromkeys(STAGES, "stage"),
    **dict.fromkeys(("types", "errors", "settings", "metrics", "assets", "events", "trace", "splitmix"), "base"),
    "gpu_turns": "base",
}  # fmt: skip
PURE = (
    "frontend/split.py", "frontend/text_units.py", "acoustic/chunking.py", "acoustic/planner.py",
    "acoustic/express_sizes.py",
    "llm/scheduler.py", "llm/joining.py", "llm/lead_limit.py", "llm/block_manager.py", "llm/sequence.py",
    "llm/bistream.py", "types.py", "errors.py", "settings.py", "splitmix.py",
    "models/speech_ids.py", "models/family.py",
    "models/model_config.py",
    "models/yaml_config.py", "models/yaml_references.py",
)  # fmt: skip
HEAVY = {"torch", "torchaudio", "transformers", "onnxruntime", "numpy", "scipy"}
NOT_ON_A_GPU_MACHINE = {"fastapi", "pydantic", "av", "structlog", "uvicorn", "starlette"}
VERSION_NAME = re.compile(r"cosyvoice[-_ ]?[123]", re.IGNORECASE)
MAY_NAME_VERSIONS = ("models/", "verify/", "compat/", "presets/", "assets/")


def parts(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


def imports(path: Path, *, at_load: bool = False) -> set[str]:
    """Full names imported by a file; with `at_load` only those that run when the module is imported."""
    names = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if at_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return names


def own(names: set[str]) -> set[str]:
    """Top-level parts of our own package among imported names: "models", "errors", ..."""
    return {name.split(".")[1] for name in names if name.startswith("light_tts.")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(parts(path)))
def test_arrows_point_down(path):
    here = parts(path)[0]
    if here not in LAYER_OF:
        return
    level = LAYERS.index(LAYER_OF[here])
    for target in own(imports(path)) - {here}:
        if target not in LAYER_OF:
            continue
        below = LAYERS.index(LAYER_OF[target])
        both_at_the_top = level == below == 0
        both_at_the_bottom = level == below == len(LAYERS) - 1
        assert level < below or both_at_the_top or both_at_the_bottom, f"{here} imports {target}"


def test_the_arrow_test_sees_a_wrong_arrow(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from light_tts.server.app import create_app\n")
    assert own(imports(wrong)) == {"server"}
    assert own(imports(wrong, at_load=True)) == set()


@pytest.mark.parametrize("name", [name for name in PURE if (PACKAGE / name).is_file()])
def test_pure_files_import_nothing_heavy(name):
    roots = {imported.split(".")[0] for imported in imports(PACKAGE / name, at_load=True)}
    assert not roots & HEAVY


@pytest.mark.parametrize("name", [*STAGES, "models", "kernels", "engine.py"])
def test_nothing_below_the_server_needs_its_packages(name):
    allowed = {"frontend": {"av"}}.get(name, set())
    place = PACKAGE / name
    for path in [place] if place.suffix == ".py" else place.rglob("*.py"):
        if path.is_file():
            roots = {imported.split(".")[0] for imported in imports(path, at_load=True)}
            assert not roots & (NOT_ON_A_GPU_MACHINE - allowed), path


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if not path.relative_to(PACKAGE).as_posix().startswith(MAY_NAME_VERSIONS)],
    ids=lambda path: "/".join(parts(path)),
)
def test_only_the_models_know_their_versions(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    named = [f"{number}: {line.strip()}" for number, line in enumerate(lines, 1) if VERSION_NAME.search(line)]
    assert named == []


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_heavy():
    assert not loaded_after("import light_tts") & HEAVY


@pytest.mark.skipif(not (PACKAGE / "cli.py").is_file(), reason="there is no command line yet")
def test_help_loads_no_torch():
    code = (
        "from light_tts.cli import main\nsys.argv = ['light-tts', '--help']\ntry:\n    main()\nexcept SystemExit: pass"
    )
    assert not loaded_after(code) & (HEAVY - {"numpy"})


def test_the_client_loads_nothing_heavy():
    pytest.importorskip("aiohttp")
    assert not loaded_after("import light_tts.client") & (HEAVY | NOT_ON_A_GPU_MACHINE)


def test_a_front_end_loads_no_torch():
    assert "torch" not in loaded_after("import light_tts.frontdoor.front_process, wetext")
    code = (
        "from light_tts.frontdoor.remote_app import RemoteApp\nfrom light_tts.settings import Settings\n"
        "RemoteApp(Settings(), None, None)"
    )
    assert "torch" not in loaded_after(code)


def test_keeping_processes_running_loads_little():
    assert not loaded_after("import light_tts.frontdoor.server_processes") & {*HEAVY, "av", "tokenizers"}


def test_opening_a_model_directory_loads_no_torch():
    code = "from light_tts.assets import builtin_model_dir\nfrom light_tts.models.model_dir import ModelDirectory\n"
    assert "torch" not in loaded_after(f"{code}ModelDirectory.open(builtin_model_dir()).special_token_ids")
