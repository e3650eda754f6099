"""Where the command line writes: closed pipes, full disks, terminals without Unicode."""

import io
import os
import select
import subprocess
import sys

import pytest

from samlib import __main__ as command_line
from samlib.cli import streams
from samlib.files import project_root

TEXT = "ρ 0.5, 81.2 ± 0.3, −1.4 × é 日"


@pytest.fixture
def says(monkeypatch):
    """The verb `status` prints a text to a stream that takes the place of stdout."""

    def call(stream, text=TEXT):
        monkeypatch.setitem(command_line.VERBS, "status", lambda args: print(text) or 0)
        monkeypatch.setattr(sys, "stdout", stream)
        return command_line.main(["status"])

    return call


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", TEXT),
        ("ascii", "rho 0.5, 81.2 +- 0.3, -1.4 x e ?"),
        ("latin-1", "rho 0.5, 81.2 ± 0.3, -1.4 × é ?"),
    ],
)
def test_a_terminal_that_lacks_a_character_gets_it_spelt(says, encoding, shown):
    raw = io.BytesIO()
    assert says(io.TextIOWrapper(raw, encoding=encoding)) == 0
    assert raw.getvalue().decode(encoding) == shown + "\n"


@pytest.mark.parametrize("buffering", [1, -1])  # written at once, and at the end
def test_a_pipe_that_nobody_reads_ends_it_quietly(says, capfd, buffering):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", buffering=buffering, encoding="utf-8") as stream:
        assert says(stream) == 141
    assert capfd.readouterr().err == ""


def test_a_system_that_tells_only_what_it_is_asked_is_asked(monkeypatch):
    """As macOS, which says of a pipe without a reader that it has hung up."""

    class Poll:
        def register(self, number, events):
            self.asked = events

        def poll(self, timeout):
            return [(1, select.POLLHUP)] if self.asked & select.POLLOUT else []

    monkeypatch.setattr(select, "poll", Poll)
    with open(os.devnull, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert streams.unread() == [1]


def test_only_streams_that_nobody_reads_are_unread(monkeypatch):
    reader, writer = os.pipe()
    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert streams.unread() == [], "one reads it"
        os.close(reader)
        assert streams.unread() == [writer]


def test_another_pipe_that_breaks_is_no_closed_output(says, monkeypatch):
    def broken(args):
        raise BrokenPipeError("of a worker")

    with open(os.devnull, "w") as stream:
        monkeypatch.setitem(command_line.VERBS, "run", broken)
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(BrokenPipeError, match="of a worker"):
            command_line.main(["run"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("buffering", [1, -1])
def test_output_that_does_not_fit_is_an_error(says, capsys, buffering):
    with open("/dev/full", "w", buffering=buffering, encoding="utf-8") as stream:
        assert says(stream) == 2
    assert capsys.readouterr().err == ("samlib: cannot write the output: No space left on device\n")


def test_closed_streams_are_not_taken_by_files():
    """Descriptor 2 of a process started without it would be the next file it opens."""
    script = (
        "import os\n"
        "from samlib.cli import streams\n"
        "streams.prepare()\n"
        "file = os.open(os.devnull, os.O_RDONLY)\n"
        "os._exit(10 + file)\n"
    )
    command = f'exec "{sys.executable}" -c "$0" <&- >&- 2>&-'
    environment = os.environ | {"PYTHONPATH": str(project_root())}
    done = subprocess.run(["/bin/sh", "-c", command, script], env=environment)
    assert done.returncode == 13


def test_spelling_is_for_what_cannot_be_encoded_only():
    streams.prepare()
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", errors="spelt")
