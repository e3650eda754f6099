"""Data sets as tensors on the device: which there are, how a seed splits them, augmentation."""

__all__ = ["augment", "datasets", "image_folders", "info", "splits"]
