"""Errors of code that a user brought, told so that they can be mended: where it happened, what was raised, and by which lines."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import NoReturn

MOST_LINES = 3
"""Places in the user's code that are shown, the innermost ones."""

OWN_PACKAGES = ("env_registry", "rllib_empathy")


class ProgramError(RuntimeError):
    """Code that a user brought (a world, a wrapper, an agent) raised an exception. Trying the same again would not help.

    The message says where and what; it ends with the innermost lines of the user's code. Python's whole traceback is this
    exception's cause where it was raised in the same process.
    """


def told(error: Exception, where: str) -> Exception:
    """The error as it is shown to users.

    Args:
        error: what was raised; it still has its traceback.
        where: what was being done, for instance "World 'my_world:Env', game 3, step 20 of its episode".

    Returns:
        The error itself, if its message is made for users: it is of a class of ours, or our own checks raised it. Else a
        `ProgramError`.
    """
    if type(error).__module__.partition(".")[0] in OWN_PACKAGES or _raised_by_us(error):
        return error
    said = str(error) or "no message"
    return ProgramError("\n".join([f"{where}: {type(error).__name__}: {said}", *_lines(error)]))


def raise_told(error: Exception, where: str) -> NoReturn:
    """Raises the error as it is shown to users; see `told`."""
    shown = told(error, where)
    if shown is error:
        raise error
    raise shown from error


def _raised_by_us(error: Exception) -> bool:
    """Whether a statement of these packages raised it. What fails inside of what they call is somebody else's."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and _is_ours(frames[-1]) and (frames[-1].line or "").startswith("raise ")


def _lines(error: Exception) -> list[str]:
    """The innermost places of the user's code; of whatever code there is, if none of it is the user's."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame)]
    written = [frame for frame in frames if "site-packages" not in Path(frame.filename).parts] or frames
    return [
        f"  {frame.filename}, line {frame.lineno}, in {frame.name}: {frame.line}" for frame in written[-MOST_LINES:]
    ]


def _is_ours(frame: traceback.FrameSummary) -> bool:
    here = Path(__file__).parents[1]
    path = Path(frame.filename)
    return path.is_relative_to(here) and path.relative_to(here).parts[0] in OWN_PACKAGES
