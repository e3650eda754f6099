"""What is measured on the final weights of a run."""

__all__ = ["corruptions", "hessian", "m_sharpness", "measurement", "sharpness"]
