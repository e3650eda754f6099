"""Records as one table."""

from helpers import result

from samlib.records import store
from samlib.records.frame import frame


def test_frame_has_a_row_per_record():
    diverged = result(1, status="diverged", diverged_epoch=1, test_accuracy=10.0)
    base = result(2, mask=None)
    base["curves"] = {"train_accuracy": [1.0], "norm_share": [None]}
    table = frame([result(), diverged, base])
    assert table["seed"].tolist() == [0, 1, 2]
    assert table["run_id"].is_unique
    assert table["test_accuracy"].tolist() == [81.25, 10.0, 81.25]
    assert table["train_accuracy"].tolist() == [75.5, 75.5, 1.0]
    assert table["status"].tolist() == ["completed", "diverged", "completed"]
    assert table["norm_share"].tolist()[:2] == [0.25, 0.25]
    assert table["norm_share"].isna().tolist() == [False, False, True]
    assert table["perturbed"].tolist()[0] == 100
    assert table["rho"].tolist() == [0.05] * 3


def test_a_frame_is_made_of_what_was_read(tmp_path):
    for seed in range(2):
        store.write(tmp_path, result(seed))
    read = store.read(tmp_path)
    assert frame(read).equals(frame(read.values()))
