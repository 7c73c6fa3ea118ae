"""Damaged and odd files, made from good ones: each mutator takes a generator and the bytes of two files of a kind."""

import copy
import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NUMBERS = [0, -1, 1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**63 - 1, 2**64, 10**20, 10**400, -(10**400), int("7" * 4200)]
FLOATS = [0.0, -0.0, 0.5, -3.5, 1e-320, 1e300, -1e308, float("inf"), float("-inf"), float("nan")]
TEXTS = [
    "", " ", "nan", "inf", "1e999", "=1+1", "\0", "\ud800", "é", "x" * 5000, "9" * 5000, "a\nb", "../..", "Infinity",
    "2",
]  # fmt: skip
CELLS = [
    *TEXTS, '"', '"a', "'", ",,,", "\t", "1,5", "1e400", "-1e-400", "0x10", "1_000", "NA", "null", "True", "1;2",
    "\r",
]  # fmt: skip
LITERALS = [
    "1", "-1", "0", "1.5", "1e400", "-inf", "nan", "inf", "true", '"x"', '""', "[]", "[1, 1]", "[1, 2]", "[[1]]", "{}",
    "{a = 1}", "1979-05-27T07:32:00Z", "07:32:00", "10" * 2000, "99999999999999999999", "0x7fffffffffffffff",
    '["hull", 2]', "[true, 1, 1.0]", "[nan, nan]", "[" * 60 + "]" * 60, "[" * 5000 + "]" * 5000, "[0.0, -0.0]",
    "-0.0", "[1e308, 1e-320]", '"' + "x" * 5000 + '"', "2147483647", "4294967295", "[[], {}]", "[{a = [1]}]",
]  # fmt: skip
DTYPES = [
    "f2", "f4", "f8", "g", "i1", "i8", "u8", "?", "c8", "c16", "U3", "S2", "M8[s]", "m8[ns]", ">f8", ">i4", "V5", "O",
    [("a", "f8"), ("b", "i4")], "U0", "V0",
]  # fmt: skip
SHAPES = [(), (0,), (1,), (3,), (0, 3), (1, 1, 1), (2, 2, 2), (1, 0, 2, 2), (5, 1, 1, 1, 1), (1,) * 30, (4, 2, 3, 2)]


def of_bytes(rng, data, other):
    """Flipped bits, cuts, insertions, repetitions, and the one file's beginning with the other's end."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = int(rng.integers(len(data) + 1))
        to = min(at + int(rng.choice([1, 2, 4, 16, 200])), len(data))
        what = rng.integers(8)
        if what < 2 and data:
            data[at % len(data)] ^= 1 << int(rng.integers(8))
        elif what == 2 and data:
            data[at % len(data)] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x2C, 0x0A]))
        elif what == 3:
            del data[at if rng.random() < 0.5 else 0 : at if rng.random() < 0.5 else to]
        elif what == 4:
            data[at:at] = rng.bytes(int(rng.integers(1, 20)))
        elif what == 5:
            data[at:at] = data[at:to] * int(rng.choice([1, 2, 50]))
        elif what == 6:
            data[at:] = other[int(rng.integers(len(other) + 1)) :]
        else:
            data[at:to] = bytes(to - at)
    return bytes(data)


def of_npz(rng, data, other):
    """An archive with an array of another type, shape or content, without one, or with one under another's name."""
    arrays = dict(np.load(io.BytesIO(data)))
    arrays |= {name: array for name, array in np.load(io.BytesIO(other)).items() if rng.random() < 0.2}
    for _ in range(rng.choice([1, 1, 2])):
        name = str(rng.choice([*arrays]))
        array = arrays[name]
        what = rng.integers(8)
        if what == 0:
            arrays[name] = _array(rng, SHAPES[rng.integers(len(SHAPES))], DTYPES[rng.integers(len(DTYPES))])
        elif what == 1:
            arrays[name] = _array(rng, array.shape, DTYPES[rng.integers(len(DTYPES))])
        elif what == 2 and array.dtype.kind in "fi" and array.size:
            with np.errstate(all="ignore"):
                changed = array.astype(float) if rng.random() < 0.8 else array.copy()
                changed.flat[rng.integers(array.size)] = np.array(rng.choice(FLOATS)).astype(changed.dtype)
            arrays[name] = changed
        elif what == 3:
            arrays[name] = np.moveaxis(array, 0, -1) if array.ndim else array[None]
        elif what == 4:
            arrays[name] = array[..., : int(rng.integers(3))] if array.ndim else np.repeat(array, 3)
        elif what == 5:
            arrays[name] = array[None] if rng.random() < 0.5 else np.asfortranarray(array[:0] if array.ndim else array)
        elif what == 6:
            del arrays[name]
            if not arrays:
                break
        else:
            arrays[str(rng.choice([*arrays, "agents", "schemes"]))] = array
    out = io.BytesIO()
    (np.savez if rng.random() < 0.5 else np.savez_compressed)(out, **arrays)
    return of_bytes(rng, out.getvalue(), other) if rng.random() < 0.1 else out.getvalue()


def _array(rng, shape, dtype):
    dtype = np.dtype(dtype)
    if dtype.hasobject:
        return np.full(shape, None, object)
    size = int(np.prod(shape))
    return (
        np.frombuffer(rng.bytes(max(size * dtype.itemsize, 1)), np.uint8)[: size * dtype.itemsize]
        .view(dtype)
        .reshape(shape)
        if dtype.itemsize and dtype.kind not in "U"
        else np.zeros(shape, dtype)
    )


def of_json(rng, data, other):
    """A value by another of any type, without a key, with one more, deep nesting, numbers without end."""
    if rng.random() < 0.1:
        return data[:-1] + b"[" * 100_000
    document = json.loads(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        places = list(_places(document))
        holder, key = places[rng.integers(len(places))] if places else ([document], 0)
        what = rng.integers(10)
        if what < 6:
            holder[key] = _value(rng)
        elif what == 6:
            del holder[key]
        elif what == 7:
            holder[key] = [copy.deepcopy(holder[key])] * int(rng.choice([1, 2]))
        elif what == 8:
            if isinstance(holder, dict):
                holder[TEXTS[rng.integers(len(TEXTS))]] = holder.pop(key)
        else:
            far = list(_places(json.loads(other)))
            at, name = far[rng.integers(len(far))]
            holder[key] = at[name]
    if rng.random() < 0.03:
        document = _value(rng)
    text = re.sub(r'"<(\d+)>"', lambda found: "7" * int(found[1]), json.dumps(document, default=str))
    return text.encode("utf-8" if rng.random() < 0.9 else "utf-16")


def _places(document):
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _value(rng):
    numbers = [x for x in NUMBERS if abs(x) < 10**30] + ["<3800>", "<5000>"]
    deep = []
    for _ in range(50):
        deep = [deep]
    some = [*numbers, *FLOATS, *TEXTS, None, True, False, [], {}, [1, 1], [None], {"a": 1}, [[1]], ["a", 1.5], deep]
    return copy.deepcopy(some[rng.integers(len(some))])


def of_toml(rng, data, other):
    """Lines with another value, without it, twice, under another section, or with another key."""
    lines = data.decode().splitlines()
    more = other.decode().splitlines()
    for _ in range(rng.choice([1, 1, 2, 3])):
        n = int(rng.integers(len(lines)))
        key, _, value = lines[n].partition("=")
        what = rng.integers(8)
        if what < 4:
            lines[n] = f"{key}= {LITERALS[rng.integers(len(LITERALS))]}"
        elif what == 4:
            lines.insert(n, more[rng.integers(len(more))])
        elif what == 5:
            lines[n] = f"{rng.choice(['x', 'a.b.c', '[x]', '[[games]]', '[games]', '', chr(34)])}={value}"
        elif what == 6:
            lines[n] = key if rng.random() < 0.5 else f"{key}= [{value}, {LITERALS[rng.integers(len(LITERALS))]}]"
        else:
            del lines[n]
            lines = lines or [""]
    return "\n".join(lines).encode("utf-8" if rng.random() < 0.95 else "utf-16")


def of_csv(rng, data, other):
    """Odd cells, rows that are too short or too long, lost and doubled columns, other encodings and separators."""
    separator = "\t" if b"\t" in data else ","
    rows = [line.split(separator) for line in data.decode().splitlines()]
    more = [line.split(separator) for line in other.decode().splitlines()]
    for _ in range(rng.choice([1, 1, 2, 5])):
        n = int(rng.choice([0, rng.integers(len(rows))]))
        row = rows[n]
        k = int(rng.integers(len(row))) if row else 0
        what = rng.integers(10)
        if what < 4 and row:
            row[k] = CELLS[rng.integers(len(CELLS))]
        elif what == 4:
            row.insert(k, CELLS[rng.integers(len(CELLS))])
        elif what == 5 and row:
            del row[k]
        elif what == 6:
            rows.insert(n, list(rows[rng.integers(len(rows))]))
        elif what == 7:
            rows[n] = list(more[rng.integers(len(more))])
        elif what == 8:
            for line in rows:
                line[k : k + 1] = [CELLS[rng.integers(len(CELLS))]] * int(rng.integers(3))
        else:
            del rows[n]
            rows = rows or [[""]]
    text = rng.choice(["\n", "\n", "\r\n", "\r"]).join(separator.join(row) for row in rows)
    encoding = rng.choice(["utf-8", "utf-8", "utf-8", "latin-1", "utf-16", "utf-8-sig"])
    return text.encode(encoding, "surrogatepass" if encoding != "latin-1" else "replace")


def of_parquet(rng, data, other):
    """Columns of other types, lost, doubled or renamed, other metadata of the schema, no rows, many row groups."""
    table = pq.read_table(io.BytesIO(data))
    for _ in range(rng.choice([1, 1, 2])):
        if not table.num_columns:
            break
        n = int(rng.integers(table.num_columns))
        what = rng.integers(8)
        if what < 3:
            table = table.set_column(n, table.field(n).name, _column(rng, table.num_rows))
        elif what == 3:
            table = table.remove_column(n)
        elif what == 4:
            names = table.column_names
            names[n] = str(rng.choice([names[0], "", "é", "x" * 3000, "=a", "user", "cell"]))
            table = table.rename_columns(names)
        elif what == 5:
            about = [b"{}", b"[]", b"null", rng.bytes(9), b'{"index_columns": ["x"], "columns": [{}]}', b"7" * 5000]
            table = table.replace_schema_metadata({b"pandas": about[rng.integers(len(about))], b"ARROW:schema": b"x"})
        elif what == 6:
            table = table.slice(int(rng.integers(3)) if rng.random() < 0.5 else table.num_rows)
        else:
            table = pa.concat_tables([table] * 2)
    out = io.BytesIO()
    try:
        pq.write_table(table, out, row_group_size=int(rng.choice([1, 1000])), store_schema=bool(rng.random() < 0.8))
    except (pa.ArrowException, ValueError):  # what parquet has no place for
        return of_bytes(rng, data, other)
    return of_bytes(rng, out.getvalue(), other) if rng.random() < 0.3 else out.getvalue()


def _column(rng, rows):
    ones = [
        [None], [True], ["a", ""], [b"\xff", b"a"], [1.5, float("nan"), float("inf")], [2**62, -5], [1e300], [1e-320],
        [[1.0], []], [{"a": 1}], ["9" * 5000], ["1", "2.5", "x"], ["=1", "é"], [["x"], None], [{"b": [None]}], [-1],
    ]  # fmt: skip
    kinds = [
        pa.float16(), pa.date32(), pa.timestamp("ns"), pa.duration("s"), pa.decimal128(38, 5),
        pa.dictionary(pa.int8(), pa.string()), pa.large_string(), pa.uint64(), pa.time64("us"), pa.null(),
        pa.binary(3), pa.float32(),
    ]  # fmt: skip
    if rng.random() < 0.4:
        return pa.nulls(rows, kinds[rng.integers(len(kinds))])
    values = ones[rng.integers(len(ones))]
    column = pa.array([values[k % len(values)] for k in range(rows)])
    if rng.random() < 0.2:
        try:
            return column.cast(kinds[rng.integers(len(kinds))], safe=False)
        except pa.ArrowException:
            return column
    return column


OF = {
    ".npz": of_npz, ".json": of_json, ".toml": of_toml, ".csv": of_csv, ".tsv": of_csv, ".data": of_csv,
    ".parquet": of_parquet,
}  # fmt: skip
