"""Which rows of a batch a host delivers, in plain Python."""


def rows_of(host, hosts, batch_size):
    """A slice of the first half, a row from the middle if parts are odd, and the slice that mirrors the first."""
    half, odd = divmod(batch_size // hosts, 2)
    front = list(range(host * half, (host + 1) * half))
    return front + [half * hosts + host] * odd + [batch_size - 1 - row for row in reversed(front)]
