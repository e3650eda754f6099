"""Files on disk, whole or absent: records, the folder that holds them, its journal."""

__all__ = ["compare", "devices", "journal", "origins", "results_folder", "store"]
