"""Accuracy on ImageNet's shifted test sets, from local folders.

Each is one folder per class, `<data dir>/NAME/CLASS/*`, its class names among those trained on. As
is usual for sets with a part of the classes, predictions are restricted to those it has.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from samlib.data.datasets import default_data_dir
from samlib.data.image_folders import Files, FolderSplits, batches, classes_of, files_of, in_parts
from samlib.errors import SamlibError

if TYPE_CHECKING:
    from samlib.trainer.loop import Trainer


# The columns of the authors' ImageNet table (poster; specification 4.3) beside ImageNet itself.
SETS = {
    "imagenetv2": "ImageNetV2",
    "imagenet-r": "ImageNet-R",
    "imagenet-a": "ImageNet-A",
    "imagenet-sketch": "ImageNet-Sketch",
    "objectnet": "ObjectNet",
}
_BATCH = 512


def shifted_sets(run: "Trainer") -> dict:
    """Test accuracy in percent on each of `SETS`, and on the official validation set.

    Returns:
        By name `accuracy`, `images` and `classes`, or `missing`: one line that says what is wrong
        with its folder. A folder called 0, 1, ... is the class at that position, as in ImageNetV2.
    """
    splits = run.splits
    clean = {"accuracy": run.accuracy_on("test"), "images": splits.count("test")}
    found = {"imagenet": clean | {"classes": len(splits.classes)}}
    folder = default_data_dir() if run.data_dir is None else Path(run.data_dir)
    for name in SETS:
        try:
            found[name] = _accuracy(run, splits, folder.expanduser() / name)
        except SamlibError as error:
            found[name] = {"missing": str(error)}
    return found


def positions(folder: Path, known: list[str]) -> dict[str, int]:
    """Label of each class folder: its position among the known classes.

    Raises:
        DataMissing: no such folder, or no folders in it.
        SamlibError: a class that is not known; it is named.
    """
    names = classes_of(folder)
    if set(names) <= {str(i) for i in range(len(known))} and not set(names) <= set(known):
        return {name: int(name) for name in names}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SamlibError(
            f"{folder} has a class that was not trained on, {unknown[0]}, and {len(unknown) - 1} "
            "more: name its folders as those of imagenet/train"
        )
    return {name: known.index(name) for name in names}


@torch.no_grad()
def _accuracy(run: "Trainer", splits: FolderSplits, folder: Path) -> dict:
    labels = positions(folder, splits.classes)
    files, local = files_of(folder, list(labels))
    among = torch.tensor(list(labels.values()), device=run.device)
    run.model.eval()
    right = 0
    found = Files(files, local, splits.info.image_size)
    for images, y in batches(found, in_parts(range(len(found)), _BATCH), run.device):
        right += (run.forward(run.inputs(images))[:, among].argmax(1) == y).sum().item()
    return {"accuracy": 100 * right / len(files), "images": len(files), "classes": len(labels)}
