"""Weights at home: while the interpreter runs, a block's own weights and their optimizer's state lie in its shared
memory, and the words `move_in`, `home` and `move_out` find them there.

The shared memory is asked for with the launch; how many elements of it there are is a word of the context. A directory
beside it says what moved in: for each part where it came from, where it lies, its first row and column, and its width.
What finds no room stays in the buffer.
"""

from typing import Any

PARTS = 64  # parts that one block may have at home
ENTRY = 5
LANES = ("row", "rows", "column", "columns")
COUNT, USED, ENTRIES = 0, 1, 2  # the directory: how many parts, how many elements, then an entry for each part


def words_at_home(words: dict[str, Any], room_word: int, dtype: Any, device: Any) -> dict[str, Any]:
    """The words of a kernel that has weights at home, and `begin`, with which it begins; said in the other words."""
    lane, sync_lanes = words["lane"], words["sync_lanes"]
    lane_row, lane_rows, lane_column, lane_columns = (words[f"lane_{name}"] for name in LANES)
    directory_of_block = device.shared("directory", ENTRIES + ENTRY * PARTS, int)
    storage = device.dynamic("home", dtype)
    matrix, block, strided = (device.views[name] for name in ("matrix", "block", "strided"))

    def begin(c):
        directory = directory_of_block()
        if lane(c) == 0:
            directory[COUNT] = 0
            directory[USED] = 0
        sync_lanes(c)

    def move_in(c, buffer, at, columns, first_row, last_row, first_column, last_column):
        directory, here = directory_of_block(), storage()
        count, used = directory[COUNT], directory[USED]
        width = last_column - first_column
        size = (last_row - first_row) * width
        sync_lanes(c)
        if size > 0 and count < PARTS and used + size <= c[room_word]:
            for i in range(lane_row(c), last_row - first_row, lane_rows(c)):
                for j in range(lane_column(c), width, lane_columns(c)):
                    here[used + i * width + j] = buffer[at + (first_row + i) * columns + first_column + j]
            if lane(c) == 0:
                entry = ENTRIES + ENTRY * count
                directory[entry] = at
                directory[entry + 1] = used
                directory[entry + 2] = first_row
                directory[entry + 3] = first_column
                directory[entry + 4] = width
                directory[COUNT] = count + 1
                directory[USED] = used + size
        sync_lanes(c)

    def entry_of(c, at):
        """Where the directory has the part that came from `at`; 0 if it is not at home."""
        directory = directory_of_block()
        found = 0
        for number in range(directory[COUNT]):
            if directory[ENTRIES + ENTRY * number] == at:
                found = ENTRIES + ENTRY * number
        return found

    entry_of = device.compile(entry_of, False)

    def move_out(c, buffer, at, columns, first_row, last_row, first_column, last_column):
        directory, here = directory_of_block(), storage()
        width = last_column - first_column
        sync_lanes(c)
        entry = entry_of(c, at)
        if entry > 0:
            used = directory[entry + 1]
            for i in range(lane_row(c), last_row - first_row, lane_rows(c)):
                for j in range(lane_column(c), width, lane_columns(c)):
                    buffer[at + (first_row + i) * columns + first_column + j] = here[used + i * width + j]

    def home(c, buffer, at, rows, columns):
        directory, entry = directory_of_block(), entry_of(c, at)
        found = block(matrix(buffer, at, rows, columns), 0, 0, rows, columns)
        if entry > 0:
            width = directory[entry + 4]
            # Where element (0, 0) would lie; only this block's part is there.
            origin = directory[entry + 1] - directory[entry + 2] * width - directory[entry + 3]
            found = strided(storage(), origin, rows, columns, width)
        return found

    return {
        "begin": device.compile(begin, False),
        "move_in": device.compile(move_in, False),
        "move_out": device.compile(move_out, False),
        "home": device.compile(home, True),
    }


def words_in_the_buffer(device: Any) -> dict[str, Any]:
    """The same words of a kernel whose weights stay where they are."""
    matrix = device.views["matrix"]

    def begin(c):
        pass

    def stay(c, buffer, at, columns, first_row, last_row, first_column, last_column):
        pass

    def home(c, buffer, at, rows, columns):
        return matrix(buffer, at, rows, columns)

    stay = device.compile(stay, False)
    return {
        "begin": device.compile(begin, False),
        "move_in": stay,
        "move_out": stay,
        "home": device.compile(home, True),
    }
