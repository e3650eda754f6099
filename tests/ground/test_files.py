"""Files are whole or not there, also on file systems that cannot flush a folder."""

import errno
import os
import stat

import pytest
from conftest import one_line

from samlib.files import DiskError, write_atomically


@pytest.fixture
def folders_flush(monkeypatch):
    """Has the flush of a folder fail with an error number, once called."""
    fsync = os.fsync

    def fail_with(number):
        def flush(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(number, os.strerror(number))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", flush)

    return fail_with


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_folders_is_written_to(tmp_path, folders_flush, number):
    folders_flush(number)
    write_atomically(tmp_path / "a.json", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"whole"


def test_a_folder_whose_flush_fails_is_an_error(tmp_path, folders_flush):
    folders_flush(errno.EIO)
    with pytest.raises(DiskError, match="Input/output error") as caught:
        write_atomically(tmp_path / "a.json", b"whole")
    one_line(caught)
