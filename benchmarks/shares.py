"""How the pages of results write a mean and its 95 % interval."""


def percent(figure: dict) -> str:
    """Of a share."""
    return f"{figure['mean']:.1%} ({figure['low']:.0%} to {figure['high']:.0%})"


def signed(figure: dict) -> str:
    """Of a difference of shares."""
    return f"{figure['mean']:+.1%} ({figure['low']:+.1%} to {figure['high']:+.1%})"


def plain(figure: dict) -> str:
    """Of what is no share."""
    return f"{figure['mean']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


def count_and_share(figure: dict | None) -> str:
    """Of a share, with how many pictures it is a share of."""
    return "of none" if figure is None else f"{percent(figure)} of {figure['count']}"
