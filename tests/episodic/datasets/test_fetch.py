"""Failing downloads, malicious archives, and bytes that depend on nothing but the files."""

from __future__ import annotations

import hashlib
import io
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from episodic.datasets.base import FetchError
from episodic.datasets.sources import fetch

ROOT = Path(__file__).resolve().parents[3]
BODY = bytes(range(256)) * 1000
WANTED = r"set/[a-z]+\.txt"


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Record retry delays without sleeping."""
    result: list[float] = []
    monkeypatch.setattr(fetch.time, "sleep", result.append)
    return result


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download_reports_progress(server, tmp_path):
    server.responses, seen = [server.sends(BODY)], []
    fetch.download(
        f"{server.url}/a.zip",
        tmp_path / "a.zip",
        max_bytes=len(BODY),
        progress=lambda *news: seen.append(news),
    )
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert len(seen) > 2
    assert seen[-1] == ("a.zip, bytes", len(BODY), len(BODY))
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})


def test_temporary_failures_are_retried_with_exponential_backoff(server, tmp_path, waits):
    server.responses = [
        server.fails(503),
        server.sends(BODY[:70_000], announced=len(BODY)),
        server.fails(429),
        server.sends(BODY),
    ]
    fetch.download(f"{server.url}/a.zip", tmp_path / "a.zip", max_bytes=1 << 20)
    assert (tmp_path / "a.zip").read_bytes() == BODY
    assert waits == [1.0, 2.0, 4.0]
    assert names(tmp_path) == ["a.zip"]


def test_an_incomplete_download_leaves_no_file(server, tmp_path, waits):
    server.responses = [server.sends(BODY[:70_000], announced=len(BODY))]
    with pytest.raises(
        FetchError, match=r"tried 3 times: the connection ended after 70000 of 256000 bytes$"
    ):
        fetch.download(f"{server.url}/a.zip", tmp_path / "a.zip", max_bytes=1 << 20, attempts=3)
    assert len(server.paths) == 3
    assert names(tmp_path) == []


def test_permanent_failures_are_not_retried(server, tmp_path, waits):
    server.responses = [server.fails(404)]
    with pytest.raises(
        FetchError, match=r"a\.zip cannot be downloaded: the server answers 404 Not Found$"
    ):
        fetch.download(f"{server.url}/a.zip", tmp_path / "a.zip", max_bytes=1 << 20)
    assert len(server.paths) == 1 and waits == [] and names(tmp_path) == []


@pytest.mark.parametrize("length", [True, False], ids=["announced", "not announced"])
def test_files_above_max_bytes_are_rejected_and_the_earlier_file_stays(
    server, tmp_path, waits, length
):
    (tmp_path / "a.zip").write_bytes(b"earlier")
    server.responses = [server.sends(BODY, length=length)]
    with pytest.raises(FetchError, match=r"is rejected: it is larger than 255999 bytes$"):
        fetch.download(f"{server.url}/a.zip", tmp_path / "a.zip", max_bytes=len(BODY) - 1)
    assert len(server.paths) == 1
    assert (tmp_path / "a.zip").read_bytes() == b"earlier" and names(tmp_path) == ["a.zip"]


def test_an_unreachable_server_raises_fetch_error(server, tmp_path, waits):
    url = f"{server.url}/a.zip"
    server.shutdown()
    server.server_close()
    with pytest.raises(FetchError) as caught:
        fetch.download(url, tmp_path / "a.zip", max_bytes=1 << 20, attempts=2)
    assert str(caught.value).startswith(f"{url} cannot be downloaded, tried 2 times: ")
    assert "\n" not in str(caught.value) and waits == [1.0]


def test_only_web_addresses_are_accepted(tmp_path):
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(FetchError, match="is not a web address"):
        fetch.download((tmp_path / "secret").as_uri(), tmp_path / "copy", max_bytes=100)
    assert names(tmp_path) == ["secret"]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_an_interrupted_download_leaves_no_file_and_the_next_one_is_complete(server, tmp_path, end):
    release = threading.Event()

    def half(handler) -> None:
        server.sends(BODY[:130_000], announced=len(BODY))(handler)
        release.wait(30)

    server.responses = [half, server.sends(BODY)]
    target = tmp_path / "data" / "a.zip"
    code = "import sys; from pathlib import Path\n"
    code += "from episodic.datasets.sources.fetch import download\n"
    code += (
        "signal = __import__('signal'); signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    )
    code += "download(sys.argv[1], Path(sys.argv[2]), max_bytes=1 << 20)"
    child = subprocess.Popen(
        [sys.executable, "-c", code, f"{server.url}/a.zip", str(target)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not any(draft.stat().st_size for draft in target.parent.glob(".*.part")):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        child.send_signal(end)
        assert child.wait(30) != 0
    finally:
        child.kill()
        child.wait()
        release.set()
    assert not target.exists()
    if end == signal.SIGINT:
        assert names(target.parent) == []
    fetch.download(f"{server.url}/a.zip", target, max_bytes=1 << 20)
    assert target.read_bytes() == BODY


def packed(
    path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], how: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_only_matching_files_are_read(tmp_path):
    members = [
        ("set/b.txt", b"2"),
        ("set/", b""),
        ("set/a.txt", b"1"),
        ("set/B.TXT", b"3"),
        ("x/set/a.txt", b"4"),
        ("set/a.txt.exe", b"5"),
    ]
    files = fetch.read_zip(
        packed(tmp_path / "a.zip", *members), pattern=WANTED, max_bytes=1000, max_members=10
    )
    assert list(files.items()) == [("set/a.txt", b"1"), ("set/b.txt", b"2")]
    assert names(tmp_path) == ["a.zip"]


def special(kind: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo("set/a.txt")
    member.create_system, member.external_attr = 3, (kind | 0o777) << 16
    return member


HARMFUL = {
    "parent": ([("../evil.txt", b"x")], "leads out"),
    "parent inside": ([("set/../../evil.txt", b"x")], "leads out"),
    "parent of Windows": ([("set\\..\\evil.txt", b"x")], "leads out"),
    "absolute": ([("/etc/evil.txt", b"x")], "leads out"),
    "drive": ([("C:\\evil.txt", b"x")], "leads out"),
    "link": ([(special(stat.S_IFLNK), b"/etc/passwd")], "link or a device"),
    "device": ([(special(stat.S_IFCHR), b"")], "link or a device"),
    "many": (
        [(f"set/{i}", b"") for i in range(11)],
        "it has 11 members, more than 10",
    ),
    "large": ([("set/a.txt", b"a" * 600), ("set/b.txt", b"b" * 600)], "larger than 1000 bytes"),
}


@pytest.mark.parametrize("case", HARMFUL)
def test_malicious_archives_are_rejected(tmp_path, case):
    members, message = HARMFUL[case]
    with pytest.raises(FetchError, match=rf"^THE ARCHIVE is rejected: .*{message}"):
        fetch.read_zip(
            packed(tmp_path / "a.zip", *members),
            pattern=WANTED,
            max_bytes=1000,
            max_members=10,
            name="THE ARCHIVE",
        )
    assert names(tmp_path) == ["a.zip"]


def test_zip_bombs_are_rejected_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *args: pytest.fail("it was read"))
    digits = "".join(hashlib.sha256(bytes([i])).hexdigest() for i in range(100)).encode()
    packed(
        tmp_path / "total.zip",
        ("set/a.txt", digits),
        ("set/b.txt", digits),
        how=zipfile.ZIP_DEFLATED,
    )
    assert (tmp_path / "total.zip").stat().st_size < 10_000 < 2 * len(digits)
    with pytest.raises(FetchError, match="its files are larger than 10000 bytes"):
        fetch.read_zip(tmp_path / "total.zip", pattern=WANTED, max_bytes=10_000, max_members=10)
    packed(tmp_path / "ratio.zip", ("set/a.txt", bytes(100_000)), how=zipfile.ZIP_DEFLATED)
    with pytest.raises(FetchError, match="compressed more than 100 to 1"):
        fetch.read_zip(tmp_path / "ratio.zip", pattern=WANTED, max_bytes=1_000_000, max_members=10)


def test_a_wrong_size_does_not_use_more_memory(tmp_path):
    path = packed(tmp_path / "a.zip", ("set/a.txt", BODY), how=zipfile.ZIP_DEFLATED)
    lying = path.read_bytes().replace(struct.pack("<L", len(BODY)), struct.pack("<L", 10))
    assert lying != path.read_bytes()
    path.write_bytes(lying)
    with pytest.raises(FetchError, match="not a valid zip archive"):
        fetch.read_zip(path, pattern=WANTED, max_bytes=100_000, max_members=10)


def test_repeated_names_are_rejected(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        packed(tmp_path / "a.zip", ("set/a.txt", b"1"), ("set/a.txt", b"2"))
    with pytest.raises(FetchError, match=r"'set/a\.txt' is repeated"):
        fetch.read_zip(tmp_path / "a.zip", pattern=WANTED, max_bytes=1000, max_members=10)


def test_unusual_compression_is_rejected(tmp_path):
    packed(tmp_path / "a.zip", ("set/a.txt", b"1"), how=zipfile.ZIP_LZMA)
    with pytest.raises(FetchError, match="encrypted or has an unusual compression"):
        fetch.read_zip(tmp_path / "a.zip", pattern=WANTED, max_bytes=1000, max_members=10)
    member = packed(tmp_path / "b.zip", ("set/a.txt", b"1")).read_bytes()
    flags = member.index(b"PK\x01\x02") + 8
    (tmp_path / "b.zip").write_bytes(member[:flags] + b"\x01" + member[flags + 1 :])
    with pytest.raises(FetchError, match="encrypted or has an unusual compression"):
        fetch.read_zip(tmp_path / "b.zip", pattern=WANTED, max_bytes=1000, max_members=10)


def test_archives_above_max_bytes_are_not_opened(tmp_path):
    (tmp_path / "a.zip").write_bytes(bytes(1001))
    with pytest.raises(FetchError, match="is rejected: it is larger than 1000 bytes"):
        fetch.read_zip(tmp_path / "a.zip", pattern=WANTED, max_bytes=1000, max_members=10)


SOUND = {"set/a.txt": b"one " * 20, "set/b.txt": b"two"}


def test_a_damaged_archive_is_rejected_or_read_correctly(tmp_path):
    path = packed(
        tmp_path / "a.zip", ("set/a.txt", b"one " * 20), ("é", b""), how=zipfile.ZIP_DEFLATED
    )
    sound = path.read_bytes()
    damaged = [sound[:length] for length in range(0, len(sound), 5)]
    damaged += [
        sound[:position] + bytes([value]) + sound[position + 1 :]
        for position in range(len(sound))
        for value in (0, 128, 255)
    ]
    for content in damaged:
        path.write_bytes(content)
        try:
            files = fetch.read_zip(path, pattern=WANTED, max_bytes=100_000, max_members=10)
        except FetchError as error:
            assert "\n" not in str(error)
        else:
            assert set(files.values()) <= {b"one " * 20}


def test_a_folder_is_read_like_its_archive(tmp_path):
    for name, content in SOUND.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "set" / "NOTES").write_text("not wanted")
    files = fetch.read_folder(tmp_path / "set", pattern=WANTED, max_bytes=1000, max_members=10)
    assert list(files.items()) == sorted(SOUND.items())
    for bound in ({"max_bytes": 20, "max_members": 10}, {"max_bytes": 1000, "max_members": 1}):
        with pytest.raises(FetchError, match="is rejected"):
            fetch.read_folder(tmp_path / "set", pattern=WANTED, **bound)


def test_content_digest_covers_names_and_contents_in_order():
    lines = b"".join(
        b"%s\0%s\n" % (name.encode(), hashlib.sha256(SOUND[name]).hexdigest().encode())
        for name in ("set/a.txt", "set/b.txt")
    )
    assert fetch.content_digest(SOUND) == hashlib.sha256(lines).hexdigest()
    assert fetch.content_digest(dict(reversed(SOUND.items()))) == fetch.content_digest(SOUND)
    assert fetch.content_digest(
        {"set/a.txt": SOUND["set/b.txt"], "set/b.txt": SOUND["set/a.txt"]}
    ) != fetch.content_digest(SOUND)


def test_write_zip_bytes_depend_only_on_names_and_contents(tmp_path):
    fetch.write_zip(tmp_path / "a.zip", SOUND)
    fetch.write_zip(tmp_path / "b.zip", dict(reversed(SOUND.items())))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert (
        fetch.read_zip(tmp_path / "a.zip", pattern=WANTED, max_bytes=1000, max_members=10) == SOUND
    )
    with zipfile.ZipFile(io.BytesIO((tmp_path / "a.zip").read_bytes())) as archive:
        for member in archive.infolist():
            message = (
                member.date_time,
                member.create_system,
                member.external_attr >> 16,
                member.compress_type,
                member.extra,
            )
            assert message == (
                (1980, 1, 1, 0, 0, 0),
                3,
                stat.S_IFREG | 0o644,
                zipfile.ZIP_STORED,
                b"",
            )


def test_a_mirror_is_searched_in_order(tmp_path):
    (tmp_path / "second").touch()
    assert fetch.find_in_mirror(None, "first") is None
    assert fetch.find_in_mirror(tmp_path, "first") is None
    assert fetch.find_in_mirror(tmp_path, "first", "second") == tmp_path / "second"
    with pytest.raises(FetchError, match=r"EPISODIC_MIRROR is .*nowhere, which is not a folder"):
        fetch.find_in_mirror(tmp_path / "nowhere", "first")
