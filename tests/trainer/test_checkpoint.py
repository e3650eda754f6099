"""Checkpoints: damaged ones are named and passed over, and code in them never runs."""

import hashlib
import io
import os
import pickle

import pytest
import torch
from conftest import identical

from samlib.files import DiskError
from samlib.trainer import checkpoint

STATES = [{"epoch": i, "w": torch.arange(5.0) + i, "curve": [1.5, None]} for i in range(3)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoints" / "model-l2-rho0.05-s0-abc.pt"


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(position):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[int(position * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return damage


DAMAGES = {
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "digest": flip(0),
    "middle": flip(0.5),
    "end": flip(1),
}
damaged = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


def test_the_newest_is_loaded_and_one_before_it_kept(path):
    assert checkpoint.load(path) is None
    for state in STATES:
        checkpoint.save(path, state)
        assert identical(checkpoint.load(path), state)
    assert len(list(path.parent.iterdir())) == 2
    checkpoint.discard(path)
    assert list(path.parent.iterdir()) == []
    checkpoint.discard(path)


@damaged
def test_a_damaged_one_is_named_and_the_previous_used(path, damage):
    for state in STATES:
        checkpoint.save(path, state)
    damage(path)
    with pytest.warns(UserWarning, match="is damaged and is not used") as caught:
        loaded = checkpoint.load(path)
    assert [str(path) in str(w.message) for w in caught] == [True]
    assert identical(loaded, STATES[1])


@damaged
def test_with_both_damaged_there_is_none(path, damage):
    for state in STATES[:2]:
        checkpoint.save(path, state)
    for file in path.parent.iterdir():
        damage(file)
    with pytest.warns(UserWarning, match="is damaged") as caught:
        assert checkpoint.load(path) is None
    assert len(caught) == 2


def test_a_lost_newest_falls_back(path):
    for state in STATES:
        checkpoint.save(path, state)
    path.unlink()  # as between the two renames of a save
    assert identical(checkpoint.load(path), STATES[1])


def test_one_from_a_gpu_is_whole_where_there_is_none(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")
        checkpoint.save(path, STATES[0])
    loaded = checkpoint.load(path)
    assert identical(loaded, STATES[0])
    assert loaded["w"].device.type == "cpu"


def test_what_is_not_the_files_fault_is_not_called_damage(path, monkeypatch):
    def no_memory(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    checkpoint.save(path, STATES[0])
    monkeypatch.setattr(torch, "load", no_memory)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        checkpoint.load(path)


class Code:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_is_refused_and_does_not_run(path, tmp_path, writer):
    marker, buffer = tmp_path / "ran", io.BytesIO()
    state = {"state": Code(str(marker))}
    torch.save(state, buffer) if writer == "torch" else pickle.dump(state, buffer, protocol=2)
    payload = buffer.getvalue()
    path.parent.mkdir()
    path.write_bytes(hashlib.sha256(payload).hexdigest().encode() + payload)
    with pytest.warns(UserWarning, match="is damaged"):
        assert checkpoint.load(path) is None
    assert not marker.exists()
    pickle.loads(pickle.dumps(Code(str(marker))))  # it would have
    assert marker.exists()


def test_a_full_disk_keeps_the_last_one(path, full_disk):
    checkpoint.save(path, STATES[0])
    full_disk()
    with pytest.raises(DiskError, match="the disk is full: free some space"):
        checkpoint.save(path, STATES[1])
    assert identical(checkpoint.load(path), STATES[0])
    assert len(list(path.parent.iterdir())) == 1
