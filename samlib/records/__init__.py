"""What is on disk, whole or not there: records, the folder that holds them, its journal."""

__all__ = ["changes", "devices", "journal", "results_folder", "store"]
