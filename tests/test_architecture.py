"""Who may import whom, as DESIGN has it; lazy imports inside functions count too (import-linter checks the layers)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
MODULES = sorted(
    path
    for package in ("registry", "embeddings")
    for path in (REPO / package).rglob("*.py")
    if "models" not in path.parts
)


def name_of(path: Path) -> str:
    """`registry.cli` for `registry/cli/__init__.py`."""
    return ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, anywhere in it, also by a name in a string."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
            argument = node.args[0]
            yield argument.value if isinstance(argument, ast.Constant) else ast.unparse(argument)


IMPORTS = {name_of(path): set(imports_of(path)) for path in MODULES}


def importers_of(*packages: str) -> set[str]:
    """Modules of ours that import any of these top-level packages."""
    return {module for module, names in IMPORTS.items() if any(name.split(".")[0] in packages for name in names)}


def test_all_modules_are_looked_at():
    assert {"registry", "registry.store", "registry.cli", "registry.cli.enroll", "embeddings.encoder"} <= set(IMPORTS)
    assert len(IMPORTS) > 30
    assert "numpy" in IMPORTS["embeddings.encoder"]
    assert "registry.store.Store" in IMPORTS["registry.cli.common"]  # lazily, inside a function


def test_no_module_of_embeddings_knows_the_registry():
    assert not [module for module in importers_of("registry") if module.startswith("embeddings")]


def test_only_the_encoder_and_its_stand_in_import_torch_and_speechbrain():
    assert importers_of("torch", "torchaudio", "speechbrain", "hyperpyyaml") == {
        "embeddings.ecapa",  # the encoder's faster half
        "embeddings.encoder",
        "embeddings.torchaudio_compat",
        "embeddings.voice_mask",  # a part of encoders
    }
    assert importers_of("torch", "speechbrain") == {
        "embeddings.ecapa",
        "embeddings.encoder",
        "embeddings.voice_mask",
    }
    assert {module for module, names in IMPORTS.items() if "embeddings.ecapa.EcapaForward" in names} == {
        "embeddings.encoder"
    }


def test_only_the_index_imports_faiss():
    assert importers_of("faiss") == {"registry.index"}


def test_the_registry_opens_no_audio():
    libraries = ("soundfile", "soxr", "av", "torchaudio", "scipy", "librosa", "wave", "audioop")

    assert {module.split(".")[0] for module in importers_of(*libraries)} == {"embeddings"}


def test_only_the_store_the_schema_and_backups_import_sqlite():
    assert importers_of("sqlite_utils") == {"registry.database", "registry.schema"}
    assert importers_of("sqlite3") == {"registry.backup", "registry.database", "registry.store"}


def test_only_the_vault_encrypts():
    assert importers_of("cryptography") == {"registry.vault"}
    assert importers_of("keyring") == {"registry.keys"}


def test_only_the_page_of_an_evaluation_imports_matplotlib():
    assert importers_of("matplotlib") == {"registry.evaluation_page"}


def test_only_model_dir_talks_to_the_hub():
    assert importers_of("huggingface_hub") == {"embeddings.model_dir"}
    assert importers_of("requests", "httpx", "urllib3", "http", "socket", "aiohttp") == set()


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("registry.scoring", {"numpy", "registry.records"}),
        ("registry.llr", {"numpy"}),
        ("registry.tail", {"numpy"}),
        ("registry.metrics", {"numpy", "registry.records"}),
        ("registry.verdict", {"numpy", "registry.records", "registry.calibration"}),
    ],
)
def test_what_decides_is_pure(module, allowed):
    """numpy and records, and of the standard library nothing that reads or writes."""
    pure = {"__future__", "collections", "dataclasses", "functools", "itertools", "math", "statistics", "typing"}

    foreign = {name for name in IMPORTS[module] if name.split(".")[0] not in pure}

    assert not {name for name in foreign if not any(f"{name}.".startswith(f"{prefix}.") for prefix in allowed)}


def test_only_tasks_and_commands_import_embeddings():
    tasks = {"registry.enroll", "registry.match", "registry.pipeline", "registry.manifest", "registry.config"}
    tasks |= {"registry.models", "registry.reembed", "registry.standing", "registry.explain", "registry.trials"}
    others = {name for name in importers_of("embeddings") if name.startswith("registry.") and ".cli" not in name}

    assert others == tasks


def test_the_tasks_use_only_public_names_of_embeddings():
    assert not {
        name
        for module, names in IMPORTS.items()
        if module.startswith("registry")
        for name in names
        if name.startswith("embeddings.") and any(part.startswith("_") for part in name.split("."))
    }


def test_nothing_imports_scripts_or_tests():
    assert importers_of("scripts", "tests") == set()
    scripts = {path.stem for path in (REPO / "scripts").glob("*.py")}
    assert scripts
    assert importers_of(*scripts) == set()


def modules_after(*arguments: str) -> tuple[set[str], str]:
    """Top-level modules that a `likeness` command has imported when it ends, and what it printed."""
    code = (
        "import sys, atexit; from registry.cli import main; "
        "atexit.register(lambda: print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)); "
        "main(prog_name='likeness')"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.split()), done.stdout


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_help_does_not_wait_for_torch_nor_numpy(arguments):
    modules, printed = modules_after(*arguments)

    assert "likeness" in printed
    assert "click" in modules
    assert not modules & {"torch", "numpy", "speechbrain", "faiss", "sqlite_utils", "soundfile", "rich", "embeddings"}


@pytest.mark.parametrize("arguments", [("enroll", "--help"), ("artists", "rename", "--help")])
def test_help_of_a_command_does_not_wait_for_what_the_command_needs(arguments):
    modules, printed = modules_after(*arguments)

    assert f"likeness {' '.join(arguments[:-1])}" in printed
    assert not modules & {"torch", "speechbrain", "faiss", "sqlite_utils", "soundfile", "rich"}


def test_listing_artists_needs_neither_torch_nor_faiss(store):
    modules, _ = modules_after("artists", "list", "--home", str(store.home))

    assert not modules & {"torch", "speechbrain", "faiss", "soundfile"}
