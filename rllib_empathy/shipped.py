"""Where the files are that come with the code but are no code: the experiments of `tune_configs/`."""

from __future__ import annotations

from pathlib import Path


def shipped(folder: str) -> Path:
    """The folder of that name: inside this package once it is installed (see setup.cfg), beside it in a checkout.

    Raises:
        FileNotFoundError: there is no such folder in either place.
    """
    package = Path(__file__).parent
    places = [package / folder, package.parent / folder]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"No folder {folder!r} comes with rllib_empathy; looked for {places[0]} and {places[1]}.")
