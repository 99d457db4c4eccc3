"""Tests of the download of the Open-i archive: resuming, checksum and unpacking."""

import http.server
import io
import random
import re
import socketserver
import tarfile
import threading

import pytest

pytest.importorskip("pooch", reason="needs the extra study")

import openi_download
import openi_images


class _Host(http.server.BaseHTTPRequestHandler):
    """A server of one archive. Each answer ends after `most` bytes, even if it announced more."""

    content, most, tag, ranges, requests = b"", 10**9, '"one"', True, []

    def do_GET(self):
        wanted = self.headers.get("Range")
        type(self).requests.append(wanted)
        fresh = self.headers.get("If-Range") == self.tag
        start = int(wanted[6:-1]) if wanted and fresh and self.ranges else 0
        if start >= len(self.content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(self.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", self.tag)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : start + self.most])

    def log_message(self, *parts):
        pass


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(openi_download, "_PAUSE", 0)
    picture = io.BytesIO(b"not really a picture" * 5000)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as files:
        entry = tarfile.TarInfo("NLMCXR_png/CXR1_IM-0001-1.png")
        entry.size = len(picture.getvalue())
        files.addfile(entry, picture)
        noise = tarfile.TarInfo("NLMCXR_png/noise.bin")
        noise.size = 600_000
        files.addfile(noise, io.BytesIO(random.Random(0).randbytes(600_000)))
    handler = type("Host", (_Host,), {"content": archive.getvalue(), "requests": []})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        handler.url = f"http://127.0.0.1:{server.server_address[1]}/NLMCXR_png.tgz"
        yield handler
        server.shutdown()


class TestDownload:
    def test_fetches_unpacks_and_records_the_checksum(self, tmp_path, host):
        folder = openi_download.fetch_images(tmp_path, url=host.url)
        assert (1, "IM-0001-1") in openi_images.find_images(folder)
        assert re.fullmatch(
            r"[0-9a-f]{64}  NLMCXR_png\.tgz\n", (tmp_path / "NLMCXR_png.tgz.sha256").read_text()
        )
        asked = len(host.requests)
        assert openi_download.fetch_images(tmp_path, url=host.url) == folder
        assert len(host.requests) == asked

    def test_goes_on_where_the_connection_broke(self, tmp_path, host):
        host.most = 4 << 16
        folder = openi_download.fetch_images(tmp_path, url=host.url)
        assert (tmp_path / "NLMCXR_png.tgz").read_bytes() == host.content
        assert folder.is_dir() and host.requests[0] is None
        assert host.requests[1:] == [f"bytes={host.most}-", f"bytes={2 * host.most}-"]
        assert not list(tmp_path.glob("*.part*"))

    def test_a_later_run_goes_on_with_what_an_earlier_one_left(self, tmp_path, host):
        (tmp_path / "NLMCXR_png.tgz.part").write_bytes(host.content[:1000])
        (tmp_path / "NLMCXR_png.tgz.part.version").write_text(host.tag)
        openi_download.fetch_images(tmp_path, url=host.url)
        assert host.requests == ["bytes=1000-"]
        assert (tmp_path / "NLMCXR_png.tgz").read_bytes() == host.content

    def test_a_whole_part_needs_no_byte_more(self, tmp_path, host):
        (tmp_path / "NLMCXR_png.tgz.part").write_bytes(host.content)
        (tmp_path / "NLMCXR_png.tgz.part.version").write_text(host.tag)
        assert openi_download.fetch_images(tmp_path, url=host.url).is_dir()

    @pytest.mark.parametrize("change", [{"tag": '"two"'}, {"ranges": False}])
    def test_another_version_or_no_range_starts_anew(self, tmp_path, host, change):
        (tmp_path / "NLMCXR_png.tgz.part").write_bytes(b"x" * 1000)
        (tmp_path / "NLMCXR_png.tgz.part.version").write_text('"one"')
        for name, value in change.items():
            setattr(host, name, value)
        openi_download.fetch_images(tmp_path, url=host.url)
        assert (tmp_path / "NLMCXR_png.tgz").read_bytes() == host.content

    def test_gives_up_without_progress_and_keeps_what_came(self, tmp_path, host):
        host.most = 0
        (tmp_path / "NLMCXR_png.tgz.part").write_bytes(host.content[:1000])
        (tmp_path / "NLMCXR_png.tgz.part.version").write_text(host.tag)
        with pytest.raises(ValueError, match="broke off at 1,000 bytes"):
            openi_download.fetch_images(tmp_path, url=host.url)
        assert (tmp_path / "NLMCXR_png.tgz.part").read_bytes() == host.content[:1000]

    def test_another_checksum_than_known_is_refused(self, tmp_path, host):
        with pytest.raises(ValueError, match="known_hash must be"):
            openi_download.fetch_images(tmp_path, url=host.url, known_hash="0" * 64)
        assert not (tmp_path / "NLMCXR_png").exists()

    def test_an_archive_that_changed_on_disk_is_fetched_anew(self, tmp_path, host):
        folder = openi_download.fetch_images(tmp_path, url=host.url)
        folder.rename(tmp_path / "elsewhere")
        (tmp_path / "NLMCXR_png.tgz").write_bytes(b"damaged")
        openi_download.fetch_images(tmp_path, url=host.url)
        assert (tmp_path / "NLMCXR_png.tgz").read_bytes() == host.content

    def test_what_is_no_archive_is_refused(self, tmp_path, host):
        host.content = b"<html>Please log in</html>"
        with pytest.raises(ValueError, match="whole tar file"):
            openi_download.fetch_images(tmp_path, url=host.url)
        assert not (tmp_path / "NLMCXR_png").exists()

    def test_a_refusing_server_is_named(self, tmp_path, host):
        with pytest.raises(ValueError, match=r"url must be one .* got 'http://127\.0\.0\.1:1/x"):
            openi_download.fetch_images(
                tmp_path, url=host.url.replace("http://127.0.0.1", "http://127.0.0.1:1/x")
            )
