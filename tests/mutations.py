"""Damage to files, decided by a random generator alone: bytes of any format, JSON, YAML, pickles inside torch's zip, npy headers."""

import io
import json
import pickletools
import struct
import warnings
import zipfile
import zlib
from random import Random

EXTREMES = (
    0,
    1,
    -1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    (1 << 63) - 1,
    (1 << 64) - 1,
)

HOSTILE_JSON = (
    *("null", "true", "{}", "[]", '""', "0", "-1", "1.5", "NaN", "-Infinity", "1e999", "1e308", "1e-320", "16777216"),
    *(str(1 << 63), str(1 << 64), "9" * 4000, "1" * 5000, "[" * 900 + "]" * 900, "[" * 10_000 + "]" * 10_000),
    *('"../../../etc/passwd"', '"/etc/passwd"', '".."', '"none"', '"\\ud800"', '"\\u0000"', '"' + "a" * 100_000 + '"'),
    '{"a": {"b": [1, {"c": null}]}}',
)

HOSTILE_YAML = (
    *("~", "yes", "-1", "0", "1.5", ".nan", "-.inf", "1e999", "2001-99-99", "{}", "[]", "!!binary aGk=", "!!set {a}"),
    *(
        "0x" + "f" * 5000,
        "1:" * 3000 + "1",
        "9" * 5000,
        "[" * 10_000,
        "{a: " * 400,
        "&a [*a]",
        "&a {b: *a}",
        "*nowhere",
    ),
    '!!python/object/apply:os.system ["touch it_ran"]',
    "!!python/name:os.system",
    '!!python/object/new:eval [\'open("it_ran", "w")\']',
    *("!!omap [a: 1]", "!unknown x", "../../../etc/passwd", '"\\uD800"', '"\\0"', "20-31, 5", "[5, 6]", "a" * 100_000),
)

YAML_BLOCKS = (
    "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)),
    "m0: &m0 {x: 1, y: 2}\n"
    + "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 30)),
    *(
        "? [a, b]\n: c\n",
        "? {a: b}\n: c\n",
        "%YAML 99\n---\n",
        "---\nprecision: fp16\n---\n",
        "\t\n",
        "\ufeff",
        "5: 6\n",
    ),
)

# Opcodes that leave one value on a pickle's stack.
_SHARED_TWICE = b")" + b"2\x86" * 60  # a tuple of a tuple twice, of a tuple twice, ...: 2^60 of them, in 60 objects
_COMMAND = b"X\x0c\x00\x00\x00touch it_ran"
HOSTILE_PUSHES = (
    b"N", b"\x88", b"]", b"}", b")", b"K\x00", b"J\xff\xff\xff\xff", b"G\x7f\xf8" + b"\0" * 6, b"G\x7f\xf0" + b"\0" * 6,
    b"X\x00\x00\x00\x00", b"X\x03\x00\x00\x00\xed\xa0\x80", b"X\x0c\x00\x00\x00/etc/passwd\x00",
    b"\x8a\x09" + b"\xff" * 8 + b"\0", b"\x8b" + struct.pack("<i", 5000) + b"\x7f" * 5000,
    _SHARED_TWICE, b"}" + _SHARED_TWICE + b"K\x01s", b"]" * 10_000 + b"a" * 9_999, b"]r\x00\x00\x10\x00j\x00\x00\x10\x00a",
    b"\x8f(" + _SHARED_TWICE + b"\x90", b"(" + _SHARED_TWICE + b"\x91", b"ctorch\ndevice\n" + _SHARED_TWICE + b"\x85R",
    b"ccollections\nOrderedDict\n](]" + _SHARED_TWICE + b"aK\x01ae\x85R",
    b"\x96" + struct.pack("<Q", 1 << 33), b"\x8e" + struct.pack("<Q", 1 << 33), b"\x95" + struct.pack("<Q", 1 << 33),
    b"cos\nsystem\n" + _COMMAND + b"\x85R", b"cbuiltins\neval\n" + _COMMAND + b"\x85R", b"(" + _COMMAND + b"ios\nsystem\n",
    b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93" + _COMMAND + b"\x85R", b"\x82\x01", b"c__torch__\nAny\n)\x81",
    b"cbuiltins\n__import__\nX\x02\x00\x00\x00os\x85R", b"cargparse\nNamespace\n)R}X\x01\x00\x00\x00aK\x01sb",
    b"cargparse\nNamespace\nN}X\x08\x00\x00\x00__iter__cnumpy\ndtype\ns\x86b", b"ctorch\nSize\n)R", b"ctorch\nfloat32\n",
)  # fmt: skip
_LITERALS = {
    "BININT",
    "BININT1",
    "BININT2",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "LONG1",
    "NEWTRUE",
    "NEWFALSE",
    "NONE",
}


def damaged_bytes(rng: Random, data: bytes, other: bytes) -> bytes:
    """One to three kinds of damage; `other` is spliced in."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(_BYTE_DAMAGE)(rng, data, other)
    return data


def _flip(rng: Random, data: bytes, _other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 32)) if data else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(rng: Random, data: bytes, _other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _insert(rng: Random, data: bytes, _other: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 100))) + data[at:]


def _repeat(rng: Random, data: bytes, _other: bytes) -> bytes:
    begin, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    end = min(end, begin + 4096)
    return data[:end] + data[begin:end] * rng.choice((1, 2, 16)) + data[end:]


def _cut(rng: Random, data: bytes, _other: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 8, 300)) :]


def _splice(rng: Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _extreme(rng: Random, data: bytes, _other: bytes) -> bytes:
    size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    number = (rng.choice(EXTREMES) & ((1 << 8 * size) - 1)).to_bytes(size, order)
    at = rng.randrange(max(1, len(data) - size))
    return data[:at] + number + data[at + size :]


_BYTE_DAMAGE = (_flip, _flip, _truncate, _insert, _repeat, _cut, _splice, _extreme)


def damaged_json(rng: Random, text: str) -> bytes:
    """A value replaced, a key lost, renamed or new, or damaged bytes."""
    if rng.random() < 0.2:
        return damaged_bytes(rng, text.encode(), text.encode())
    tree, mark = json.loads(text), "@hostile@"
    for _ in range(rng.choice((1, 1, 1, 3))):
        tree = _damaged_value(rng, tree, mark)
    while f'"{mark}"' in (text := json.dumps(tree)):
        tree = json.loads(text.replace(f'"{mark}"', f'"{mark}{rng.randrange(len(HOSTILE_JSON))}"', 1))
    for number, hostile in enumerate(HOSTILE_JSON):
        text = text.replace(f'"{mark}{number}"', hostile)
    return text.encode()


def _damaged_value(rng: Random, tree: object, mark: str) -> object:
    """The tree with one place damaged; deeper places as likely as shallow ones."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.1:
        return mark
    if isinstance(tree, list):
        at = rng.randrange(len(tree))
        kind = rng.random()
        if kind < 0.1:
            return tree[:at] + tree[at + 1 :]
        if kind < 0.2:
            return tree[:at] + [tree[at]] * 2 + tree[at + 1 :]
        return tree[:at] + [_damaged_value(rng, tree[at], mark)] + tree[at + 1 :]
    key, kind = rng.choice(list(tree)), rng.random()
    if kind < 0.08:
        return {name: value for name, value in tree.items() if name != key}
    if kind < 0.16:
        hostile = rng.choice(("..", "../x", "/etc/passwd", "", "a" * 300, "\0", "x y", "\ud800", f"{key}x", "con.onnx"))
        return {hostile if name == key else name: value for name, value in tree.items()}
    return tree | {key: _damaged_value(rng, tree[key], mark)}


def damaged_yaml(rng: Random, text: str) -> bytes:
    """A value replaced, a block of YAML's own traps before or behind, or damaged bytes."""
    kind = rng.random()
    if kind < 0.2:
        return damaged_bytes(rng, text.encode(), text.encode())
    lines = [line for line in text.splitlines() if ":" in line and not line.startswith("#")]
    if kind < 0.4:
        lines.insert(rng.choice((0, len(lines))), rng.choice(YAML_BLOCKS))
    else:
        keys = [line.partition(":")[0] for line in lines] + [
            "max_batch",
            "skip",
            "adapter_scale",
            "max_tokens",
            "unknown",
        ]
        lines.append(f"{rng.choice(keys)}: {rng.choice(HOSTILE_YAML)}")
    return "\n".join(lines).encode("utf-8", "surrogatepass")


class TorchZip:
    """A file that torch.save wrote, taken apart once: its members, and the opcodes of its pickle."""

    def __init__(self, data: bytes):
        self.data = data
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            self.members = {name: archive.read(name) for name in archive.namelist()}
        self.pickle_name = next(name for name in self.members if name.endswith("/data.pkl"))
        pickled = self.members[self.pickle_name]
        operations = list(pickletools.genops(pickled))
        ends = [position for _, _, position in operations[1:]] + [len(pickled)]
        self.chunks = [pickled[position:end] for (_, _, position), end in zip(operations, ends)]
        self.literals = [i for i, (code, _, _) in enumerate(operations) if code.name in _LITERALS]

    def damaged(self, rng: Random, other: "TorchZip") -> bytes:
        """The file with its bytes damaged, or whole as a zip with another pickle, or with other members."""
        kind = rng.random()
        if kind < 0.3:
            return damaged_bytes(rng, self.data, other.data)
        members = dict(self.members)
        if kind < 0.85:
            members[self.pickle_name] = self._damaged_pickle(rng, other)
        names = {}
        if kind > 0.8:
            hostile = ("../data.pkl", "/etc/passwd", "..", "", "a/../../b", "b/data.pkl", self.pickle_name, "x\\..\\y")
            names = {rng.choice(list(members)): rng.choice(hostile)}
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are there twice
            for name, content in members.items():
                squeezed = kind > 0.95 and rng.random() < 0.5
                method = zipfile.ZIP_DEFLATED if squeezed else zipfile.ZIP_STORED
                archive.writestr(zipfile.ZipInfo(names.get(name, name)), content, method)
        return packed.getvalue()

    def _damaged_pickle(self, rng: Random, other: "TorchZip") -> bytes:
        """Damaged as bytes, as opcodes, or with hostile values in place of literals."""
        kind, chunks = rng.random(), list(self.chunks)
        if kind < 0.3:
            return damaged_bytes(rng, b"".join(chunks), b"".join(other.chunks))
        if kind < 0.5:
            a, b = rng.randrange(len(chunks)), rng.randrange(len(chunks))
            chunks[a], chunks[b] = rng.choice(((chunks[b], chunks[a]), (b"", chunks[b]), (chunks[a] * 2, chunks[b])))
        elif kind < 0.6:
            chunks.insert(rng.randrange(len(chunks)), rng.choice(HOSTILE_PUSHES))
        else:
            near_the_end = self.literals[-rng.choice((10, 40, len(self.literals))) :]  # the arguments come last
            for _ in range(rng.choice((1, 1, 2))):
                chunks[rng.choice(near_the_end)] = rng.choice(HOSTILE_PUSHES)
        return b"".join(chunks)


def npy(header: str, data: bytes = b"\0" * 64) -> bytes:
    """An npy file with this header, as it is."""
    text = header.encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def zeros_deflated(name: str, head: bytes, size: int) -> bytes:
    """A zip with one member: `head` and then `size` zeros, a thousandth of that in the file."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open(name, "w", force_zip64=True) as member:
            member.write(head)
            for _ in range(size >> 24):
                member.write(b"\0" * (1 << 24))
    return packed.getvalue()


def resized_png(data: bytes, width: int, height: int) -> bytes:
    """The PNG with another size in its header, and the header's checksum right."""
    header = b"IHDR" + struct.pack(">II", width & 0xFFFFFFFF, height & 0xFFFFFFFF) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
