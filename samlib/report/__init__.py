"""From records to numbers, words and figures."""

__all__ = [
    "answers",
    "campaign_cost",
    "counting",
    "figures",
    "formats",
    "gains",
    "html",
    "law",
    "missing",
    "names",
    "paper",
    "results",
    "stats",
    "step_times",
    "text",
    "tidy",
    "toys",
    "wording",
]
