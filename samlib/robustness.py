def robustness(run):
    return {}
