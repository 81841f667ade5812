"""A copy of a run's folder in object storage (s3://, gs://), from which the run can be taken up anywhere."""

from __future__ import annotations

from pathlib import Path

from pyarrow import ArrowException
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, copy_files

from rllib_empathy.experiments.errors import RunFolderError

COMPLETE = "complete"
"""The file that lists the checkpoints of which all is there."""


class Mirror:
    """A folder in object storage.

    Args:
        uri: s3://bucket/runs, gs://bucket/runs, or anything else that Arrow knows.

    Raises:
        RunFolderError: there is no such storage, or it cannot be reached.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        try:
            self._storage, self._path = FileSystem.from_uri(uri)
            self._storage.create_dir(self._path, recursive=True)
        except (ArrowException, OSError, ValueError) as error:
            raise RunFolderError(
                f"The storage {uri!r} cannot be used: {error}. Write s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, and give this "
                "machine the right to write there."
            ) from error

    def download(self, folder: Path) -> None:
        """Copies what is in storage into a local folder, if anything is.

        Raises:
            OSError: it cannot be read.
        """
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        for info in self._list(""):
            if info.type == FileType.File:
                copy_files(info.path, str(folder / info.base_name), source_filesystem=self._storage)
        for name in self._complete():
            (folder / "checkpoints" / name).mkdir(exist_ok=True)
            copy_files(self._at(name), str(folder / "checkpoints" / name), source_filesystem=self._storage)

    def upload(self, folder: Path) -> None:
        """Copies a run's folder to storage; checkpoints that are gone here go there too.

        A checkpoint counts once it is listed in storage, which happens after all of it is there.

        Raises:
            OSError: it cannot be written.
        """
        here = sorted(path.name for path in (folder / "checkpoints").glob("iteration_*"))
        for name in sorted(set(here) - set(self._complete())):
            self._storage.create_dir(self._at(name), recursive=True)
            copy_files(str(folder / "checkpoints" / name), self._at(name), destination_filesystem=self._storage)
        self._storage.create_dir(f"{self._path}/checkpoints", recursive=True)
        with self._storage.open_output_stream(self._at(COMPLETE)) as file:
            file.write("\n".join(here).encode())
        for path in folder.iterdir():
            if path.is_file() and not path.name.startswith("."):
                copy_files(str(path), f"{self._path}/{path.name}", destination_filesystem=self._storage)
        for info in self._list("checkpoints"):
            if info.type == FileType.Directory and info.base_name not in here:
                self._storage.delete_dir(info.path)

    def _at(self, name: str) -> str:
        return f"{self._path}/checkpoints/{name}"

    def _list(self, folder: str) -> list[FileInfo]:
        return self._storage.get_file_info(FileSelector(f"{self._path}/{folder}".rstrip("/"), allow_not_found=True))

    def _complete(self) -> list[str]:
        if self._storage.get_file_info(self._at(COMPLETE)).type != FileType.File:
            return []
        with self._storage.open_input_stream(self._at(COMPLETE)) as file:
            return file.read().decode().split()
