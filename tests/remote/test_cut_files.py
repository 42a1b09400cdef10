"""Interrupted transfers of large files: the next one resumes, and the content is correct."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import far
from conftest import Command
from labrun.remote import channel, data, helper
from labrun.remote.partial_downloads import PartialDownloads
from labrun.remote.ssh import UnreachableError

CONTENT = os.urandom(3 << 20)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAME, SIZE, TIME = "checkpoints/last.ckpt", len(CONTENT), 7


def store(there: helper.Helper, sent: bytes, announced: int, start: int = 0) -> None:
    payload = helper._Payload(io.BytesIO(sent), announced)
    there.do_store({"store": "store", "digest": DIGEST, "start": start}, payload)


def begun(there: helper.Helper) -> dict[str, int]:
    found: dict[str, int] = there.do_begun({"store": "store", "digests": [DIGEST]}, helper._Payload(io.BytesIO(), 0))[
        0
    ]["begun"]
    return found


def test_an_upload_resumes_after_a_cut(there: helper.Helper, tmp_path: Path) -> None:
    store(there, CONTENT[:1000], SIZE)
    assert begun(there) == {}, "little is sent again"
    store(there, CONTENT[: 2 << 20], SIZE)
    assert begun(there) == {DIGEST: 2 << 20}
    store(there, CONTENT[2 << 20 : -5], SIZE - (2 << 20), start=2 << 20)
    assert begun(there) == {DIGEST: SIZE - 5}
    store(there, CONTENT[-5:], 5, start=SIZE - 5)
    folder = Path(there.root, "store") / DIGEST[:2]
    assert [path.name for path in folder.iterdir()] == [DIGEST] and (folder / DIGEST).read_bytes() == CONTENT
    store(there, b"", 0, start=SIZE)  # another laptop's, which was slower


def test_damaged_partial_files_are_discarded(there: helper.Helper, tmp_path: Path) -> None:
    store(there, CONTENT[: 2 << 20], SIZE)
    (part,) = (Path(there.root, "store") / DIGEST[:2]).iterdir()
    part.write_bytes(b"x" * (2 << 20))
    with pytest.raises(helper.RefusedError, match="damaged"):
        store(there, CONTENT[2 << 20 :], SIZE - (2 << 20), start=2 << 20)
    assert begun(there) == {} and not list((Path(there.root, "store")).rglob("*"))[1:]


@pytest.mark.parametrize("is_cut", [False, True])
def test_concurrent_uploads_of_a_file_leave_it_whole(there: helper.Helper, is_cut: bool) -> None:
    half = 2 << 20

    class Amid(io.BytesIO):
        is_told = False

        def read(self, count: int | None = -1) -> bytes:
            if self.tell() >= half and not self.is_told:  # the other upload continues what this one has sent
                self.is_told = True
                start = begun(there).get(DIGEST, 0)
                store(there, CONTENT[start : -5 if is_cut else None], SIZE - start, start=start)
            return super().read(count)

    request = {"store": "store", "digest": DIGEST, "start": 0}
    payload = helper._Payload(Amid(CONTENT), SIZE)
    if is_cut:
        with pytest.raises(helper.RefusedError, match="another transfer of a file was interrupted: repeat the command"):
            there.do_store(request, payload)
    else:
        there.do_store(request, payload)
        (whole,) = (Path(there.root, "store") / DIGEST[:2]).iterdir()
        assert whole.read_bytes() == CONTENT
    store(there, CONTENT[-5:], 5, start=SIZE - 5)


def bring(folder: Path, sent: bytes, time: int = TIME, fails: bool = False) -> int:
    """Receive the file as from the machine; return the offset where the transfer resumed."""
    with PartialDownloads(folder) as one:
        start = one.offered.get(NAME, [0, 0, 0])
        at = start[2] if start[:2] == [SIZE, time] else 0
        with one.writing(folder / NAME, NAME, SIZE, time, at) as file:
            file.write(sent[at:])
            if fails:
                raise UnreachableError("cut")
    return at


def test_a_download_resumes_after_a_cut(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UnreachableError):
        bring(tmp_path, CONTENT[: 2 << 20], fails=True)
    assert not (tmp_path / NAME).exists()
    assert bring(tmp_path, CONTENT) == 2 << 20 and (tmp_path / NAME).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]

    with pytest.raises(UnreachableError):
        bring(tmp_path, b"old" * (1 << 19), fails=True)
    assert bring(tmp_path, CONTENT, time=8) == 0 and (tmp_path / NAME).read_bytes() == CONTENT, "it has changed there"


def test_concurrent_downloads_of_a_file_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with PartialDownloads(tmp_path) as first, first.writing(tmp_path / NAME, NAME, SIZE, TIME, 0) as file:
        file.write(CONTENT[: 2 << 20])
        assert bring(tmp_path, CONTENT) == 0 and (tmp_path / NAME).read_bytes() == CONTENT
        file.write(CONTENT[2 << 20 :])
    assert (tmp_path / NAME).read_bytes() == CONTENT


def test_transfers_over_a_real_link_resume_after_a_cut(
    box: far.Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lab_here: Command
) -> None:
    """Both ways: bytes that arrived before the cut are not sent again."""
    from labrun.remote import mirror, remotes

    (tmp_path / "large").write_bytes(CONTENT)
    remote, write = remotes.get("box"), channel.Channel._write

    def cut_after(count: int) -> Callable[[channel.Channel, bytes], None]:
        def cutting(conversation: channel.Channel, sent: bytes) -> None:
            write(conversation, sent)
            if conversation.sent > count:
                conversation._process.kill()
                raise UnreachableError("cut")

        return cutting

    with monkeypatch.context() as patched:
        patched.setattr(channel.Channel, "_write", cut_after(5 << 19))
        with pytest.raises(UnreachableError), channel.Channel(remote) as conversation:
            data.send_missing(conversation, "box", {DIGEST: tmp_path / "large"})
    with channel.Channel(remote) as conversation:
        data.send_missing(conversation, "box", {DIGEST: tmp_path / "large"})
        assert conversation.sent < 2 << 20
        place = f"{conversation.root}/store/{DIGEST[:2]}/{DIGEST}"
    assert box.inside(f"sha256sum {place}").split()[0] == DIGEST

    box.inside(f"mkdir -p /home/{far.USER}/.labrun/run/checkpoints && cp {place} /home/{far.USER}/.labrun/run/{NAME}")
    here, some = tmp_path / "run", channel.Channel._read_some

    def cut_in_the_middle(conversation: channel.Channel, count: int, quiet_s: float) -> bytes:
        if conversation.received > 5 << 19:
            raise UnreachableError("cut")
        return some(conversation, count, quiet_s)

    with monkeypatch.context() as patched:
        patched.setattr(channel.Channel, "_read_some", cut_in_the_middle)
        with pytest.raises(UnreachableError), channel.Channel(remote) as conversation:
            mirror.pull(conversation, here, "run", ["checkpoints"])
    with channel.Channel(remote) as conversation:
        assert mirror.pull(conversation, here, "run", ["checkpoints"]) == [NAME]
        assert conversation.received < 2 << 20
    assert (here / NAME).read_bytes() == CONTENT and not (here / ".coming").exists()
