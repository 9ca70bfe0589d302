"""(placeholder while the contract is laid down)"""


class Normalizer:
    """See the contract."""
