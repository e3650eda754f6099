"""What is measured on the final weights of a run."""

__all__ = [
    "connectivity",
    "corruptions",
    "curvature",
    "hessian",
    "m_sharpness",
    "measurement",
    "robustness",
    "sharpness",
    "shifted_sets",
]
