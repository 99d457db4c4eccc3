"""The download of the Open-i archive of X-rays, with progress, resuming and a checksum.

pooch stores the file and checks it. pooch cannot continue a broken transfer, and the archive has
1.3 GB. The downloader in this module does that with HTTP Range requests.

The publisher gives no checksum. Therefore the SHA-256 of the first complete download is written
beside the archive, and every later use is checked against it. This finds a file that was damaged on
disk, but not one that was wrong from the start. A user who knows the right checksum can pass it as
`known_hash`.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import time
import zlib
from pathlib import Path
from typing import final
from urllib.parse import urlsplit

import pooch
import requests
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

ARCHIVE_URL = "https://openi.nlm.nih.gov/imgs/collections/NLMCXR_png.tgz"
# Bytes. A broken connection loses its last, incomplete chunk, so chunks are small.
_CHUNK = 1 << 16
# Seconds without an answer, and seconds before a new attempt. The pause doubles each time.
_TIMEOUT = 60
_PAUSE = 1.0


class DownloadError(ValueError):
    """The error for a file that could not be fetched. The part that arrived can be continued."""


@final
class ResumingDownloader:
    """A downloader for pooch that continues a broken transfer.

    The bytes that arrived stay in the file `part`. Beside it stands the server's identifier of that
    version of the file (its ETag or its date of change), so that parts of two versions are never
    joined. The transfer starts from the beginning if the file has changed, or if the server does
    not support Range.

    Args:
        part: the unfinished file, which stays there between attempts.
        attempts: how many attempts in a row may bring no new byte before the download fails.
    """

    def __init__(self, part: Path, attempts: int = 5) -> None:
        """Stores the path of the unfinished file and the number of attempts."""
        self.part, self.attempts = part, attempts
        self.version = part.with_name(part.name + ".version")

    def __call__(self, url: str, output_file: str, pooch_object: object) -> None:
        """Fetches a file.

        Args:
            url: the address of the file.
            output_file: where the complete file is written.
            pooch_object: not used; pooch passes it to every downloader.

        Raises:
            DownloadError: if the server refuses, or the transfer broke off too often. The bytes
                that arrived stay on disk.
        """
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        failures = 0
        with Progress("{task.description}", *columns) as progress:
            task = progress.add_task(self.part.name, total=None)
            while True:
                before = self._size()
                try:
                    self._attempt(url, progress, task)
                    break
                except (
                    requests.ConnectionError,
                    requests.Timeout,
                    requests.exceptions.ChunkedEncodingError,
                ) as error:
                    # A slow but working connection may break off as often as it likes.
                    failures = 0 if self._size() > before else failures + 1
                    if failures >= self.attempts:
                        raise DownloadError(
                            f"url must be one that can be fetched, got {url!r}, "
                            f"which broke off at {self._size():,} bytes. "
                            "Run the same command again: it goes on from there."
                        ) from error
                    time.sleep(_PAUSE * 2**failures)
        os.replace(self.part, output_file)
        self.version.unlink(missing_ok=True)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _attempt(self, url: str, progress: Progress, task: TaskID) -> None:
        """Fetches the rest of the file in one request; returns when the file is complete."""
        have = self._size()
        version = self.version.read_text() if self.version.exists() else ""
        resume = have > 0 and bool(version)
        # In a compressed transfer, offsets would not count the bytes of the file itself.
        headers = {"Accept-Encoding": "identity"}
        if resume:
            headers |= {"Range": f"bytes={have}-", "If-Range": version}
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            # Status 416: the range is empty. The size in Content-Range says whether that is because
            # all bytes are here already, or because the part belongs to another file.
            complete = resume and answer.status_code == 416
            if complete and answer.headers.get("Content-Range") == f"bytes */{have}":
                return
            if complete or answer.status_code >= 400:
                if complete:
                    self.part.unlink()
                raise DownloadError(
                    f"url must be one that can be fetched, got {url!r}: "
                    f"the server answered {answer.status_code} {answer.reason}. "
                    "Check the address, or run the command again."
                )
            # Only status 206 continues the part; status 200 sends the whole file again.
            start = have if answer.status_code == 206 else 0
            self.version.write_text(
                answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            )
            length = answer.headers.get("Content-Length")
            progress.update(task, total=start + int(length) if length else None, completed=start)
            with self.part.open("ab" if start else "wb") as stream:
                for chunk in answer.iter_content(_CHUNK):
                    stream.write(chunk)
                    progress.update(task, advance=len(chunk))


def fetch_images(
    folder: str | Path, *, url: str = ARCHIVE_URL, known_hash: str | None = None
) -> Path:
    """Returns the folder of unpacked X-rays, after fetching and unpacking them where needed.

    Args:
        folder: where the archive and the X-rays are stored. It is made if it is missing.
        url: the address of the archive.
        known_hash: the SHA-256 that the archive must have. None takes the one recorded at the first
            download, if there is one.

    Raises:
        ValueError: if the archive cannot be fetched, is damaged, or has another checksum.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = Path(urlsplit(url).path).name
    if not name:
        raise ValueError(f"url must be the address of a file, got {url!r}. Name the archive.")
    record = folder / f"{name}.sha256"
    expected = known_hash or (record.read_text().split()[0] if record.exists() else None)
    unpacked = folder / name.split(".")[0]
    if unpacked.is_dir():
        return unpacked
    try:
        archive = pooch.retrieve(
            url,
            known_hash=expected,
            fname=name,
            path=folder,
            downloader=ResumingDownloader(folder / f"{name}.part"),
        )
    except requests.RequestException as error:
        raise DownloadError(
            f"url must be one to fetch from, got {url!r}: {error}. Check it."
        ) from error
    except DownloadError:
        # It is a ValueError, but says nothing about a checksum, unlike the next one.
        raise
    except ValueError as error:
        raise ValueError(
            "known_hash must be the SHA-256 of the file fetched, "
            f"got {expected!r} for {url!r} ({error}). If the publisher changed the file, "
            f"delete {record.name}; else fetch it again."
        ) from error
    if not record.exists():
        record.write_text(f"{pooch.file_hash(archive)}  {name}\n")
    _unpack(Path(archive), unpacked)
    return unpacked


def _unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar archive into a folder that does not exist yet."""
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive, "r:*") as files:
            # The filter refuses paths that lead out of the folder.
            files.extractall(partial, filter="data")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(
            f"archive must be a whole tar file, got {str(archive)!r} ({error}). "
            "Delete it and its .sha256, and run again."
        ) from error
    # Renamed only when complete, so that an interrupted run does not look like a finished one.
    os.replace(partial, folder)
