"""Where the project's own folders are, from wherever one starts."""

from pathlib import Path


def project_root() -> Path:
    """The folder that holds `notebooks` and `book`: above the current one, or the checkout's.

    So a notebook finds the results whether papermill ran it from the root or from its folder.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").exists() and (folder / "notebooks").is_dir():
            return folder
    return Path(__file__).resolve().parent.parent


def resolve(path: str | Path) -> Path:
    """An absolute path as it is; a relative one from the project's root."""
    path = Path(path)
    return path if path.is_absolute() else project_root() / path
