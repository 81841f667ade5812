"""A copy of a run's folder in object storage (s3://, gs://), from which the run can be taken up anywhere.

At no moment does the storage, or a folder that is fetched from it, hold anything but one state of the run, whole: a checkpoint
counts once it is listed, metrics are there before the checkpoints that they lead to, and a file is written beside and then moved.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import normpath
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from pyarrow import ArrowException
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from rllib_empathy.experiments.errors import RunFolderError
from rllib_empathy.experiments.run_folder import RunFolder, iteration_of, replace_folder

COMPLETE = "complete"
"""The file that lists the checkpoints of which all is there."""

_CHECKPOINT = re.compile(r"iteration_\d+", re.ASCII)
_EXPERIMENT = "experiment.yaml"


def is_uri(storage: str | None) -> bool:
    """Whether a storage is one for a mirror (s3://..., file:/...), and not a folder that all machines see."""
    return storage is not None and re.match(r"[A-Za-z][\w+.-]+:", storage, re.ASCII) is not None


class Mirror:
    """A folder in object storage.

    Args:
        uri: s3://bucket/runs, gs://bucket/runs, file:///runs, or anything else that Arrow knows, with Arrow's options behind a
            question mark: s3://bucket/runs?endpoint_override=HOST:PORT&scheme=http for a server of one's own.

    Raises:
        RunFolderError: there is no such storage, or it cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        parts = urlsplit(uri)
        self.place = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
        """The URI without credentials and options."""
        try:
            self._storage, path = FileSystem.from_uri(uri)
            self._path = normpath(path) if isinstance(self._storage, LocalFileSystem) else path.rstrip("/")
            self._storage.create_dir(self._path, recursive=True)
        except (ArrowException, OSError, ValueError) as error:
            raise RunFolderError(
                f"The storage {uri!r} cannot be used: {error}. Write s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER "
                "(an absolute path), and give this machine the right to write there."
            ) from error

    @classmethod
    def of_run(cls, storage: str, name: str, run: str) -> Mirror:
        """The folder NAME/RUN of a storage.

        Raises:
            RunFolderError: there is no such storage, or it cannot be reached.
        """
        parts = urlsplit(storage)
        return cls(urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}/{quote(run)}")))

    def bring(self, folder: Path) -> None:
        """Brings a local run folder to where the storage is; one that has gone on further stays as it is.

        Raises:
            RunFolderError: the storage cannot be read, is damaged, or holds another experiment than the folder.
        """
        self._check_apart(folder)
        with self._telling("read"):
            files, checkpoints = self._contents()
            if _EXPERIMENT not in files:
                return  # whatever is there was being uploaded for the first time
            if (folder / _EXPERIMENT).is_file():
                if self._read(f"{self._path}/{_EXPERIMENT}") != (folder / _EXPERIMENT).read_bytes():
                    raise RunFolderError(
                        f"The storage {self.uri} and the folder {folder} hold runs of unlike experiments ({_EXPERIMENT} of both "
                        "differ). Choose another name with --run, or another folder with --out."
                    )
                last = RunFolder(folder).last_checkpoint()
                if last and iteration_of(last) > max(map(_iteration, checkpoints), default=0):
                    return
            self._fetch(folder, files, checkpoints)

    def download(self, folder: Path) -> bool:
        """Copies what is in storage into a local folder, over what is there, and returns whether anything is.

        Raises:
            RunFolderError: the storage cannot be read, or is damaged; or the folder cannot be written.
        """
        self._check_apart(folder)
        with self._telling("read"):
            files, checkpoints = self._contents()
            self._fetch(folder, files, checkpoints)
        return bool(files or checkpoints)

    def upload(self, folder: Path) -> None:
        """Copies a run's folder to storage; checkpoints that are gone here go there too.

        A checkpoint counts once it is listed in storage, which happens after all of it, and the metrics up to it, are there.

        Raises:
            RunFolderError: the storage cannot be written.
        """
        self._check_apart(folder)
        with self._telling("written"):
            found = (path.name for path in (folder / "checkpoints").glob("iteration_*"))
            here = sorted(filter(_CHECKPOINT.fullmatch, found), key=_iteration)
            listed = self._listed()
            for name in here:
                if name not in listed:
                    self._remove(self._at(name))  # an upload that was cut off may have left some of it
                    self._storage.create_dir(self._at(name), recursive=True)
                    copy_files(str(folder / "checkpoints" / name), self._at(name), destination_filesystem=self._storage)
            for path in sorted(folder.iterdir()):
                if path.is_file() and not path.name.startswith("."):
                    self._put(path.read_bytes(), self._path, path.name)
            if here:
                self._put("\n".join(here).encode(), f"{self._path}/checkpoints", COMPLETE)
                for info in self._list("checkpoints"):
                    if _CHECKPOINT.fullmatch(info.base_name) and info.base_name not in here:
                        self._remove(info.path)

    # -- what is there

    def _contents(self) -> tuple[list[str], list[str]]:
        """The run's own files, and its complete checkpoints in order.

        Raises:
            RunFolderError: a name would leave the folder, or a listed checkpoint is not there.
        """
        infos = self._list("", recursive=True)
        names = {_inside(info.path.removeprefix(f"{self._path}/"), self.uri): info for info in infos}
        listed = self._listed()
        for name in listed:
            if not any(other.startswith(f"checkpoints/{name}/") for other in names):
                raise RunFolderError(
                    f"The storage {self.uri} lists the checkpoint {name}, of which nothing is there. Take its line out of "
                    f"checkpoints/{COMPLETE} to go on from another one."
                )
        own = [name for name, info in names.items() if info.type == FileType.File and "/" not in name]
        return sorted(name for name in own if not name.startswith(".")), sorted(listed, key=_iteration)

    def _listed(self) -> list[str]:
        """The complete checkpoints.

        Raises:
            RunFolderError: the list holds what is no name of a checkpoint.
        """
        if self._storage.get_file_info(self._at(COMPLETE)).type != FileType.File:
            return []
        names = self._read(self._at(COMPLETE)).decode(errors="replace").splitlines()
        for name in names:
            if not _CHECKPOINT.fullmatch(name):
                raise RunFolderError(
                    f"The storage {self.uri} lists {name!r} in checkpoints/{COMPLETE}, which is no name of a checkpoint "
                    "(iteration_000100). Somebody else has written there: take the line out, if you trust the rest."
                )
        return names

    def _list(self, folder: str, recursive: bool = False) -> list[FileInfo]:
        place = f"{self._path}/{folder}".rstrip("/")
        return self._storage.get_file_info(FileSelector(place, allow_not_found=True, recursive=recursive))

    def _read(self, path: str) -> bytes:
        with self._storage.open_input_stream(path) as file:
            return bytes(file.read())

    # -- changes, each of which is there as a whole or not at all

    def _fetch(self, folder: Path, files: list[str], checkpoints: list[str]) -> None:
        """Metrics first, then checkpoints from the first to the last: if it is cut off, the folder is still behind."""
        if not files and not checkpoints:
            return
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        for name in sorted(files, key=_EXPERIMENT.__eq__):  # by which a folder is known as a run's: the last one
            partial = folder / f".{name}"
            copy_files(f"{self._path}/{name}", str(partial), source_filesystem=self._storage)
            partial.replace(folder / name)
        for name in checkpoints:
            partial = folder / "checkpoints" / f".{name}"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            copy_files(self._at(name), str(partial), source_filesystem=self._storage)
            replace_folder(partial, folder / "checkpoints" / name)

    def _put(self, content: bytes, folder: str, name: str) -> None:
        partial = f"{folder}/.{name}"
        with self._storage.open_output_stream(partial) as file:
            file.write(content)
        self._storage.move(partial, f"{folder}/{name}")

    def _remove(self, path: str) -> None:
        if self._storage.get_file_info(path).type == FileType.Directory:
            self._storage.delete_dir(path)

    def _at(self, name: str) -> str:
        return f"{self._path}/checkpoints/{name}"

    # -- checks

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except RunFolderError:
            raise
        except (ArrowException, OSError, ValueError) as error:
            raise RunFolderError(f"The storage {self.uri} cannot be {what}: {error}.") from error

    def _check_apart(self, folder: Path) -> None:
        """A copy inside of what is copied would grow for ever, and a file is not copied onto itself."""
        if not isinstance(self._storage, LocalFileSystem):
            return
        there, here = Path(self._path).resolve(), folder.resolve()
        if there == here or there in here.parents or here in there.parents:
            raise RunFolderError(
                f"The storage {self.uri} and the run folder {folder} lie in each other. Give --out another folder, or write "
                "--storage without file://: then the run is kept there only."
            )


def _iteration(name: str) -> int:
    return iteration_of(Path(name))


def _inside(name: str, uri: str) -> str:
    """The name of something in a folder of a storage, which stays in that folder wherever it is copied.

    Raises:
        RunFolderError: it does not.
    """
    parts = name.split("/")
    if {"", ".", ".."} & set(parts) or name[1:2] == ":" or any(letter in name for letter in "\\\0"):
        raise RunFolderError(
            f"The storage {uri} holds {name!r}, which is no name inside a run's folder: a copy of it would lie elsewhere. "
            "Somebody else has written there: remove it, if you trust the rest."
        )
    return name
