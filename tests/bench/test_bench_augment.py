import pytest
import torch
from conftest import one_line
from PIL import Image

from samlib import bench
from samlib.__main__ import main
from samlib.bench import augment, plain_loop, timing
from samlib.data.info import INFO
from samlib.errors import ConfigError
from samlib.records import store

CPU = torch.device("cpu")


def test_augmentation_is_timed_against_pillow_and_recorded(tmp_path):
    setting = augment.Setting(model="resnet8", batch_size=4, images=6, rounds=2)
    record, path = bench.run(augment, setting, tmp_path)
    assert path.name == "augment-resnet8-32px-batch4-fp32-cpu.json"
    assert timing.read(tmp_path, "augment") == [store.read_one(path)]
    assert record["images"] == 6
    for name in ("basic", "autoaugment"):
        assert record["ratios"][name][0] > 0
        assert record["controls"][name][0] > 0
        assert 0 < record["share_of_epoch"][name][1] < 1
        assert f"{name} by Pillow" in augment.table(record)
    assert "target on a GPU: 5 %" in augment.table(record)


def test_ratios_and_shares_follow_from_the_times():
    took = {}
    for name in ("basic", "autoaugment"):
        took |= {
            name: [1.0, 2.0],
            f"{name} again": [1.0, 3.0],
            f"{name} by Pillow": [6.0, 8.0],
            f"epoch with {name}": [10.0, 40.0],
        }
    found = augment.summary(took, images=30)
    assert found["ratios"]["basic"] == [4.5, 5.0, 5.5]
    assert found["controls"]["basic"] == [1.125, 1.25, 1.375]
    assert found["share_of_epoch"]["autoaugment"] == pytest.approx([0.0625, 0.075, 0.0875])
    assert found["images_per_second"]["basic"] == 20
    assert found["seconds"]["epoch with basic"] == [17.5, 25.0, 32.5]


def test_both_augment_the_same_images_in_full():
    setting = augment.Setting(model="resnet8", batch_size=4, images=5)
    calls = augment.contenders(setting, CPU)
    for name in ("basic", "autoaugment"):
        ours, theirs = calls[name](), calls[f"{name} by Pillow"]()
        assert (ours.shape, ours.dtype) == ((5, 3, 32, 32), torch.uint8)
        assert [image.size for image in theirs] == [(32, 32)] * 5


def test_pillow_crops_and_flips():
    """One bright pixel: it comes out moved by at most four pixels, mirrored or not, or cut off."""
    image = Image.new("RGB", (32, 32))
    image.putpixel((10, 20), (255, 0, 0))
    transform = plain_loop.augmentation("basic", INFO["cifar100"])
    boxes = {transform(image).getbbox() for _ in range(200)}
    left = {box[0] for box in boxes}
    assert left <= {*range(6, 15), *range(17, 26)}
    assert left & set(range(6, 15))
    assert left & set(range(17, 26))
    assert {box[1] for box in boxes} <= set(range(16, 25))
    assert plain_loop.augmentation("none", INFO["cifar100"])(image) is image


@pytest.mark.parametrize("wrong", [{"model": "resnet"}, {"images": 0}, {"precision": "fp16"}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ConfigError) as caught:
        augment.Setting(**wrong)
    one_line(caught)


def test_the_command_line_refuses_what_it_does_not_take(capsys):
    assert main(["bench", "augment", "--augment", "basic"]) == 2
    assert "valid: model, batch_size, images, precision" in capsys.readouterr().err


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_augmentation_is_timed_on_a_gpu(tmp_path):
    setting = augment.Setting(model="resnet8", images=2000, rounds=2, device="cuda")
    record, _ = bench.run(augment, setting, tmp_path)
    assert record["run_id"].endswith("-bf16-cuda")
    assert timing.hardware(record) == torch.cuda.get_device_name()
