"""How work is shared out: a range among workers, and a rectangle into tiles.

A worker's *tiles* are (first row, last row, first column, last column, first, every): of the tiles of that rectangle,
counted along its rows, the one numbered `first` and each `every`-th after it.
"""

from fusedmlp.kernels.vocabulary import thin, tile_columns, tile_rows


def share(extent, multiple, number, parts):
    """[first, last) of part `number` when `extent` is cut into `parts` at multiples of `multiple`."""
    if parts == 1:
        return 0, extent
    units = extent_in(extent, multiple)
    first = units * number // parts * multiple
    last = units * (number + 1) // parts * multiple
    return min(first, extent), min(last, extent)


def extent_in(extent, unit):
    return (extent + unit - 1) // unit


def divided(number, by):
    """(quotient, remainder). A division takes a processor as long as twenty other instructions, and most are by one:
    without them, here and in `share`, a step of 64-64-10 takes 1 % less (AMD EPYC)."""
    return (number, 0) if by == 1 else (number // by, number % by)


@thin
def all_tiles(first_row, last_row, first_column, last_column):
    """Every tile of a rectangle."""
    return first_row, last_row, first_column, last_column, 0, 1


def count_tiles(c, tiles):
    first_row, last_row, first_column, last_column, first, every = tiles
    count = extent_in(last_row - first_row, tile_rows(c)) * extent_in(last_column - first_column, tile_columns(c))
    return divided(count - first + every - 1, every)[0]


def tile(c, tiles, k):
    """(first row, rows, first column, columns) of the k-th of these tiles."""
    first_row, last_row, first_column, last_column, first, every = tiles
    down, right = divided(first + k * every, extent_in(last_column - first_column, tile_columns(c)))
    i, j = first_row + down * tile_rows(c), first_column + right * tile_columns(c)
    return i, min(tile_rows(c), last_row - i), j, min(tile_columns(c), last_column - j)
