"""Fetching the Open-i archive of X-rays: progress, resume after an interruption, checksum.

pooch keeps the file and checks it; what pooch cannot do, going on where a transfer of 1.3 GB broke
off, the downloader below does with HTTP Range.

The publisher gives no checksum. So the SHA-256 of the first complete download is written beside the
archive, and every later use is checked against it: this finds a file damaged on disk, not one that
was wrong from the start. Whoever knows the right checksum gives it as `known_hash`.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import time
import zlib
from pathlib import Path
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
# What a broken connection delivered of its last chunk is lost, so chunks are small.
_CHUNK = 1 << 16
_TIMEOUT = 60
_PAUSE = 1.0


class DownloadError(ValueError):
    """A file that could not be fetched; what had arrived is kept where it can be continued."""


class ResumingDownloader:
    """A downloader for pooch that goes on where it broke off.

    What has arrived is kept in `part`, and the server's name for that version of the file (its ETag
    or date of change) beside it, so that two versions are never joined: a changed file, like a
    server without Range, starts anew.

    Args:
        part: where the unfinished file is kept between attempts.
        attempts: how many attempts without a single new byte are made before giving up.
    """

    def __init__(self, part: Path, attempts: int = 5) -> None:
        """Remembers where the unfinished file lies."""
        self.part, self.attempts = part, attempts
        self.version = part.with_name(part.name + ".version")

    def __call__(self, url: str, output_file: str, pooch_object: object) -> None:
        """Fetches `url` to `output_file`; the third argument is part of pooch's protocol and not used.

        Raises:
            DownloadError: if the server refuses, or the transfer broke off too often; what arrived
                is kept.
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
                    failures = 0 if self._size() > before else failures + 1
                    if failures >= self.attempts:
                        raise DownloadError(
                            f"url must be one that can be fetched, got {url!r}, which broke off at "
                            f"{self._size():,} bytes. Run the same command again: it goes on from there."
                        ) from error
                    time.sleep(_PAUSE * 2**failures)
        os.replace(self.part, output_file)
        self.version.unlink(missing_ok=True)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _attempt(self, url: str, progress: Progress, task: TaskID) -> None:
        have = self._size()
        version = self.version.read_text() if self.version.exists() else ""
        resume = have > 0 and bool(version)
        # A compressed transfer would count other bytes than the file has.
        headers = {"Accept-Encoding": "identity"}
        if resume:
            headers |= {"Range": f"bytes={have}-", "If-Range": version}
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            complete = resume and answer.status_code == 416
            if complete and answer.headers.get("Content-Range") == f"bytes */{have}":
                return
            if complete or answer.status_code >= 400:
                if complete:
                    self.part.unlink()
                raise DownloadError(
                    f"url must be one that can be fetched, got {url!r}: the server answered "
                    f"{answer.status_code} {answer.reason}. Check the address, or run the command again."
                )
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
    """Returns the folder of unpacked X-rays; what was fetched or unpacked before is not done again.

    Args:
        folder: where archive and X-rays are kept; made if missing.
        url: where the archive is.
        known_hash: the SHA-256 it must have; None takes the one recorded at the first download, if
            there is one.

    Raises:
        ValueError: if the archive cannot be fetched, is damaged, or has another checksum than it
            must.
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
        raise
    except ValueError as error:
        raise ValueError(
            f"known_hash must be the SHA-256 of the file fetched, got {expected!r} for {url!r} ({error}). "
            f"If the publisher changed the file, delete {record.name}; else fetch it again."
        ) from error
    if not record.exists():
        record.write_text(f"{pooch.file_hash(archive)}  {name}\n")
    _unpack(Path(archive), unpacked)
    return unpacked


def _unpack(archive: Path, folder: Path) -> None:
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive, "r:*") as files:
            files.extractall(partial, filter="data")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(
            f"archive must be a whole tar file, got {str(archive)!r} ({error}). Delete it and its .sha256, and run again."
        ) from error
    # Renamed only when whole, so that an interrupted run is not taken for a finished one.
    os.replace(partial, folder)
