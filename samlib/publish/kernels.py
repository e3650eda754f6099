"""The kernel that notebooks run on: this interpreter, and nothing of what the user has set up.

A `python3` kernel in a home may point anywhere. Startup files, IPython's configuration, the rc file
and backend of matplotlib and the locale would each show in the pages, or keep figures out of them.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samlib.environment import environment

_NAME = "samlib-this-python"  # of no kernel that somebody else has installed


@contextmanager
def kernel() -> Iterator[str]:
    """Inside the block, the name of a kernel of this interpreter that can be started."""
    with tempfile.TemporaryDirectory(prefix="samlib-kernel-", ignore_cleanup_errors=True) as folder:
        place = Path(folder) / "kernels" / _NAME
        place.mkdir(parents=True)
        (place / "kernel.json").write_text(json.dumps(_spec(Path(folder))), encoding="utf-8")
        (Path(folder) / "matplotlibrc").touch()
        with environment(JUPYTER_PATH=folder, JUPYTER_RUNTIME_DIR=f"{folder}/runtime"):
            yield _NAME


def _spec(folder: Path) -> dict:
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    environment = {
        "IPYTHONDIR": str(folder / "ipython"),
        "MATPLOTLIBRC": str(folder / "matplotlibrc"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # or each kernel says that debugging is slow
        "PYTHONSTARTUP": "",
        "PYTHONUTF8": "1",
        "PYTHONWARNINGS": "",
    }
    return {"argv": command, "display_name": _NAME, "language": "python", "env": environment}
