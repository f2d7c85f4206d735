class Extractor: ...


def control_channels(name, grid):
    return 5
