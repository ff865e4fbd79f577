"""The package's modules import one way: what a module builds on does not build on it."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import maskgit_export

PACKAGE = Path(maskgit_export.__file__).parent


def imports(folder, package):
    """Module -> the modules of the package that it imports anywhere, inside functions too."""
    files = {
        ".".join([package, *file.relative_to(folder).with_suffix("").parts]): file for file in folder.rglob("*.py")
    }
    found = {}
    for name, file in files.items():
        wanted = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = name.split(".")[: -node.level] if node.level else []
                origin = ".".join([*above, *filter(None, [node.module])])
                wanted |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
        found[name] = {other for other in wanted if other in files and other != name}
    return found


def test_no_module_imports_in_a_circle():
    found = imports(PACKAGE, "maskgit_export")
    assert found["maskgit_export.weights"] == {f"maskgit_export.{n}" for n in ("from_bundle", "mvtm", "tokenizer")}
    assert "maskgit_export.files" in found["maskgit_export.bundle"] and len(found) > 40
    assert "maskgit_export.published.google" in found["maskgit_export.synth"]
    TopologicalSorter(found).prepare()


def test_a_circle_is_found(tmp_path):
    (tmp_path / "a.py").write_text("from . import b")
    (tmp_path / "b.py").write_text("def late():\n    from .c import thing")
    (tmp_path / "c.py").write_text("import p.a")
    with pytest.raises(CycleError):
        TopologicalSorter(imports(tmp_path, "p")).prepare()
