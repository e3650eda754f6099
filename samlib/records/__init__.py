"""Files on disk, whole or absent: records, the folder that holds them, its journal."""

__all__ = ["compare", "devices", "frame", "journal", "origins", "results_folder", "store"]
