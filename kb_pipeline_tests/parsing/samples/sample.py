def row(oar):
    return oar.pull()


class Boat:
    """Floats."""
