"""Networks by name, each with its stages in forward order.

Every model takes any input size and channel count, and lists its `stages`, so that masks over
stages and the step's reuse of an unperturbed prefix need to know nothing about families.
"""

from samlib.models.zoo import build, count, is_vit, names

__all__ = ["build", "count", "is_vit", "names"]
