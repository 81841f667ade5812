"""The docs site: every page has its place, and the reference names modules that there are."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
REFERENCE = (CHECKOUT / "docs" / "reference.md").read_text(encoding="utf-8")


def test_every_page_of_the_navigation_exists():
    named = set(re.findall(r"^ +- .*: (\S+\.md)$", (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    there = {page.relative_to(CHECKOUT / "docs").as_posix() for page in (CHECKOUT / "docs").rglob("*.md")}
    assert named - there == {"index.md"}, "the start page is made of the README"
    assert there <= named, "a page that no reader would find"


@pytest.mark.parametrize("module", re.findall(r"^::: (\S+)$", REFERENCE, re.MULTILINE))
def test_the_reference_documents_modules(module):
    assert importlib.import_module(module).__doc__
