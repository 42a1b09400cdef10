"""Imports labrun's modules under Python 3.6, without their annotations, whose `__future__` import needs 3.7.

The rest of their syntax is valid Python 3.6. This file, and those that run before it, use only plain names as
annotations.
"""

import ast
import sys
from importlib.machinery import PathFinder, SourceFileLoader
from typing import Any


class _Unannotated(ast.NodeTransformer):
    """Removes annotations and the `__future__` import."""

    def visit_ImportFrom(self, node: Any) -> Any:
        return None if node.module == "__future__" else node

    def visit_AnnAssign(self, node: Any) -> Any:
        self.generic_visit(node)
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)

    def visit_FunctionDef(self, node: Any) -> Any:
        node.returns = None
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 (a name of ast)

    def visit_arg(self, node: Any) -> Any:
        node.annotation = None
        return node


class _Loader(SourceFileLoader):
    """Compiles a module without its annotations; Python caches the bytecode as usual."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
        tree = ast.fix_missing_locations(_Unannotated().visit(ast.parse(data, path)))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)


class _Finder:
    """Finds labrun's modules."""

    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: Any = None) -> Any:
        spec = PathFinder.find_spec(fullname, path, target) if fullname.startswith("labrun.") else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


def install() -> None:
    """Install the finder before all others."""
    sys.meta_path.insert(0, _Finder)
