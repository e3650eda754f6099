"""Controls: parts that exist to test an explanation of SAM, beside the parts that are methods."""

from samlib.sam.controls.directions import Downhill, Noise
from samlib.sam.controls.felt import Felt
from samlib.sam.controls.penalty import Penalty

__all__ = ["Downhill", "Felt", "Noise", "Penalty"]
