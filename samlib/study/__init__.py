"""Which runs the study is made of: methods, their cells, profiles, and what each chapter needs."""

__all__ = [
    "cells",
    "kept_plan",
    "law",
    "members",
    "methods",
    "plan",
    "profile",
    "profiles",
    "search",
]
