"""Compiled code on disk must not outlive its source.

Numba keeps compiled functions beside the source (`cache=True`) and compiles again when the function's own file changes. It does
not see a change in another file whose functions were inlined, such as `grid.py` into the worlds.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def forget_stale_kernels(package: Path) -> None:
    """Removes the compiled functions of the package's folder that are older than its newest source file."""
    newest = max(source.stat().st_mtime for source in package.glob("*.py"))
    for index in (package / "__pycache__").glob("*.nbi"):
        with suppress(OSError):  # another process was quicker, or the folder is not ours to change
            if index.stat().st_mtime < newest:
                index.unlink()
