"""For the docs site: the start page is the README, and files outside docs/ are named, not linked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

README = Path(__file__).parents[1] / "README.md"


def on_files(files: Files, config: Any) -> Files:
    """Adds the start page."""
    text = README.read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that lead out of docs/ become plain text."""
    folder = Path(__file__).parent.resolve()

    def linked(match: re.Match[str]) -> str:
        target = match[2].partition("#")[0]
        if not target or "://" in target or (folder / target).resolve().is_relative_to(folder):
            return match[0]
        return match[1] if "`" in match[1] else f"`{match[1]}`"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)]+)\)", linked, markdown)
