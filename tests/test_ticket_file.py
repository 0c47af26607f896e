"""Laws of the ticket's file on tickets made of arrays; test_ticket.py has those of networks."""

import dataclasses
import hashlib
import io
import json
import math
import time
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from rst_tf import npz
from rst_tf.entropy_coding import entropy
from rst_tf.initializers import Seed
from rst_tf.ticket import Entry, Ticket

SEED = Seed(1, "signed_constant", hash="0" * 64)
NETWORK = {"architecture": {"name": "a_resnet", "width": 1.0}, "shape": [32, 32, 3], "classes": 10}


def a_mask(shape, density, seed=0):
    size = math.prod(shape)
    mask = np.zeros(size, bool)
    mask[np.random.default_rng(seed).permutation(size)[: math.ceil(density * size)]] = True
    return mask.reshape(shape)


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def of_shapes(shapes, density, leftovers=(), stored=False, **fields):
    """A ticket of kernels of these shapes, each pruned element by element."""
    entries = [
        Entry(f"layer_{i}/kernel", s, a_mask(s, density, i), numbers(s, i) if stored else None)
        for i, s in enumerate(shapes)
    ]
    return Ticket(tuple(entries), tuple(leftovers), **fields)


SMALL = ((3, 3, 2, 4), (12, 5))
EXOTIC = (np.float32(0.5), np.arange(3), np.zeros((0, 4), "f4"), np.array([[True], [False]]))
EXOTIC += (np.arange(4, dtype="f2"), np.arange(2, dtype=">f8"))
TICKETS = {
    "nothing": lambda: Ticket(()),
    "masks": lambda: of_shapes(SMALL, 0.3),
    "seed": lambda: of_shapes(SMALL, 0.1, [numbers(4), numbers(5)], seed=SEED, network=NETWORK),
    "stored": lambda: of_shapes(SMALL, 0.5, [numbers(7)], stored=True),
    "some stored": lambda: dataclasses.replace(
        of_shapes(SMALL, 0.5),
        entries=of_shapes(SMALL, 0.5).entries[:1] + of_shapes(SMALL, 0.5, stored=True).entries[1:],
    ),
    "all kept": lambda: of_shapes(SMALL, 1.0, [numbers(400)], network={"some": "thing"}),
    "none kept": lambda: of_shapes(SMALL, 0.0),
    "one entry": lambda: of_shapes([(1,), (1, 1)], 1.0),
    "other numbers": lambda: of_shapes(SMALL, 0.2, EXOTIC),
    "groups": lambda: Ticket(
        tuple(
            Entry(str(shape), (3, 3, 4, 6), a_mask(shape, 0.5), numbers((3, 3, 4, 6)))
            for shape in ((3, 3, 4, 6), (3, 1, 4, 6), (1, 1, 4, 6), (1, 1, 1, 6))
        )
    ),
}
every_ticket = pytest.mark.parametrize("name", TICKETS)


def same(a, b):
    for x, y in zip(a.entries, b.entries, strict=True):
        assert (x.name, x.shape) == (y.name, y.shape)
        assert (x.kernel is None) == (y.kernel is None)
        assert x.mask.dtype == bool and np.array_equal(x.mask, y.mask)
        assert x.kernel is None or np.array_equal(x.kernel, y.kernel)
    for x, y in zip(a.leftovers, b.leftovers, strict=True):
        assert x.dtype.name == y.dtype.name
        np.testing.assert_array_equal(x, y, strict=x.dtype == y.dtype)
    assert (a.network, a.seed, a.mask_hash) == (b.network, b.seed, b.mask_hash)


@every_ticket
def test_round_trip(name, tmp_path):
    ticket = TICKETS[name]()
    ticket.save(tmp_path / "t.npz")
    again = Ticket.load(tmp_path / "t.npz")
    same(ticket, again)
    again.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "t.npz").read_bytes()
    for value in [e.kernel for e in again.entries if e.kernel is not None] + [*again.leftovers]:
        assert value.flags.writeable and value.dtype.isnative


def test_the_same_ticket_gives_the_same_bytes(tmp_path):
    files = []
    for names in ("ab", "ba"):
        ticket = of_shapes(SMALL, 0.4, stored=True, network={name: ord(name) for name in names})
        for entry in ticket.entries if names == "ba" else ():
            object.__setattr__(entry, "kernel", np.asfortranarray(entry.kernel))
            object.__setattr__(entry, "mask", np.asfortranarray(entry.mask))
        ticket.save(tmp_path / "t.npz")
        files.append((tmp_path / "t.npz").read_bytes())
    assert files[0] == files[1]


def test_a_golden_file(tmp_path):
    """What this format's first program wrote, up to deflate, which other programs do otherwise."""
    ticket = of_shapes([(12, 5)], 0.3)
    ticket.save(tmp_path / "t.npz")
    content = npz.content_of((tmp_path / "t.npz").read_bytes())
    header, body = parts(content)
    assert header == {
        "entries": [["layer_0/kernel", [12, 5], [12, 5], [18, 1], False]],
        "masks": 8,
        "network": None,
        "seed": None,
        "values": [],
    }
    assert body.hex() == "7200006e568c719000"


@every_ticket
def test_it_is_an_archive_as_numpy_reads_it(name, tmp_path):
    TICKETS[name]().save(tmp_path / "t.npz")
    file = (tmp_path / "t.npz").read_bytes()
    with np.load(tmp_path / "t.npz", allow_pickle=False) as data:
        assert data["ticket"].tobytes() == npz.content_of(file)
    with zipfile.ZipFile(tmp_path / "t.npz") as archive:
        assert archive.testzip() is None and archive.namelist() == ["ticket.npy"]
        assert archive.infolist()[0].date_time == (1980, 1, 1, 0, 0, 0)


# How large: at most 1.10 times entropy and leftovers, and what a header takes.


def bound(ticket):
    masks = sum(entropy(e.mask.size, int(e.mask.sum())) for e in ticket.entries) / 8
    return 1.10 * (masks + sum(value.nbytes for value in ticket.leftovers))


def header_bytes(ticket):
    """500 for archive, checksum, seed and the arguments of an architecture; 4 per kernel."""
    return 500 + 4 * len(ticket.entries)


LAYERS = {
    "dense": [(784, 300), (300, 100), (100, 10)],
    "convolutions": [(5, 5, 1, 32), (5, 5, 32, 64), (3136, 512), (512, 10)],
    "many small": [(3, 3, 8, 8)] * 40,
    "one": [(1, 1)],
    "wide": [(3, 3, 256, 256)],
}


@pytest.mark.parametrize("density", [0.0, 1e-4, 0.01, 0.05, 0.1, 0.2, 0.382, 0.5, 0.8, 0.99, 1.0])
@pytest.mark.parametrize("layers", LAYERS)
def test_files_are_as_small_as_the_entropy(layers, density, tmp_path):
    leftovers = [numbers(shape[-1:], i) for i, shape in enumerate(LAYERS[layers])]
    ticket = of_shapes(LAYERS[layers], density, leftovers, seed=SEED, network=NETWORK)
    ticket.save(tmp_path / "t.npz")
    assert (tmp_path / "t.npz").stat().st_size <= bound(ticket) + header_bytes(ticket)


def cresnet18(density):
    """The shapes and statistics of the cResNet18 of "Drawing Robust Scratch Tickets" (2021)."""
    shapes, width = [(3, 3, 3, 64), *[(3, 3, 64, 64)] * 4], 64
    for _ in range(3):
        width *= 2
        into, inside, short = (3, 3, width // 2, width), (3, 3, width, width), (1, 1, width // 2)
        shapes += [into, inside, (*short, width), inside, inside]
    shapes.append((1, 1, 512, 10))
    widths = [shape[-1] for shape in shapes[:-1]]
    rng = np.random.default_rng(0)
    statistics = [v for n in widths for v in (rng.normal(size=n), rng.exponential(size=n))]
    statistics = [value.astype(np.float32) for value in statistics]
    return of_shapes(shapes, density, statistics, seed=SEED, network=NETWORK)


@pytest.mark.parametrize(
    ("density", "megabytes"), [(0.01, 0.167), (0.05, 0.482), (0.1, 0.763), (0.5, 1.577)]
)
def test_a_ticket_of_cresnet18(density, megabytes, tmp_path):
    ticket = cresnet18(density)
    assert sum(e.mask.size for e in ticket.entries) == 11_164_352 and len(ticket.entries) == 21
    assert sum(value.size for value in ticket.leftovers) == 9600
    start = time.process_time()
    ticket.save(tmp_path / "t.npz")
    again = Ticket.load(tmp_path / "t.npz")
    assert time.process_time() - start < 10
    same(ticket, again)
    size = (tmp_path / "t.npz").stat().st_size
    assert size <= bound(ticket) and size / 1e6 <= megabytes


def test_stored_kernels_take_no_more_than_deflated_arrays(tmp_path):
    ticket = of_shapes(LAYERS["dense"], 0.2, stored=True)
    ticket.save(tmp_path / "t.npz")
    size = (tmp_path / "t.npz").stat().st_size
    assert size < len(of_format_2(ticket)) and size < 0.93 * sum(
        e.kernel.nbytes for e in ticket.entries
    )


def test_a_mask_of_one_value_takes_a_byte_for_every_1024_entries(tmp_path):
    for density in (0.0, 1.0):
        ticket = of_shapes([(4096, 1024)], density)
        ticket.save(tmp_path / "t.npz")
        assert 4096 <= (tmp_path / "t.npz").stat().st_size < 4096 + 600
        same(ticket, Ticket.load(tmp_path / "t.npz"))


# Damage.


@pytest.mark.parametrize("name", ["nothing", "masks", "seed"])
def test_every_flipped_bit_and_every_truncation_is_refused(name, tmp_path):
    path = tmp_path / "t.npz"
    TICKETS[name]().save(path)
    good = path.read_bytes()
    damaged = [good[:length] for length in range(len(good))] + [good + b"\0", b"\0" + good]
    for place in range(8 * len(good)):
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        damaged.append(bytes(bad))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"t\.npz is not a ticket, or is damaged: [^\n]+$"):
            Ticket.load(path)


def test_one_wrong_byte_of_a_larger_file_is_refused(tmp_path):
    path = tmp_path / "t.npz"
    TICKETS["groups"]().save(path)
    good = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(good), 300):
        bad = bytearray(good)
        bad[place] ^= 0xFF
        path.write_bytes(bytes(bad))
        with pytest.raises(ValueError, match="not a ticket, or is damaged"):
            Ticket.load(path)


def parts(content):
    """Header and what follows it."""
    end = 37 + int.from_bytes(content[33:37], "little")
    return json.loads(zlib.decompress(content[37:end])), content[end:]


def forged(ticket, path, change, first=3, seal=True):
    """Writes a file whose header, bytes or format are changed and whose checksums are right."""
    ticket.save(path)
    content = npz.content_of(path.read_bytes())
    header, rest = parts(content)
    changed = change(header, rest)
    text, rest = changed if isinstance(changed, tuple) else (header, changed or rest)
    text = text if isinstance(text, bytes) else zlib.compress(json.dumps(text).encode())
    body = len(text).to_bytes(4, "little") + text + rest
    digest = hashlib.sha256(bytes([first]) + body).digest() if seal else content[1:33]
    path.write_bytes(npz.archive(bytes([first]) + digest + body))


def field(name, value):
    return lambda header, rest: header.update({name: value})


def entry(place, value):
    return lambda header, rest: header["entries"][0].__setitem__(place, value)


HUGE = 10**12
SEALED = {  # what a checksum cannot tell: the header claims what the file does not hold
    "a huge mask": lambda h, r: h["entries"].__setitem__(
        0, ["k", [HUGE, 9], [HUGE, 1], [HUGE, 0], False]
    ),
    "a large mask of nothing": lambda h, r: (
        h | {"entries": [["k", [HUGE // 5000], [HUGE // 5000], [0, 0], False]], "masks": 0},
        r[h["masks"] :],
    ),
    "a huge mask of one": lambda h, r: h["entries"].__setitem__(
        0, ["k", [HUGE], [HUGE], [1, 30], False]
    ),
    "a huge kernel": field("values", [["<f4", [HUGE]]]),
    "a huge type": field("values", [[f"V{2**31 - 1}", [HUGE]]]),
    "an object": field("values", [["O", [0]]]),
    "huge sizes": field("values", [["<f4", [10**30, 0]]]),
    "a huge number of bytes": field("masks", HUGE),
    "a negative size": entry(2, [-3, 3, -2, 4]),
    "a mask of another shape": entry(2, [3, 3, 4, 2]),
    "sizes that are no numbers": entry(2, [3.0, 3, 2, 4]),
    "sizes that are words": entry(2, "many"),
    "a code for more": entry(3, [73, 1]),
    "no code": entry(3, []),
    "a kernel that is not there": entry(4, True),
    "no entries": field("entries", None),
    "an entry too short": field("entries", [["k"]]),
    "a seed of another kind": field("seed", {"sed": 1}),
    "no header": lambda h, r: (b"", r),
    "a header that is no JSON": lambda h, r: (zlib.compress(b"{"), r),
    "a header that is a list": lambda h, r: (zlib.compress(b"[]"), r),
    "a bottomless header": lambda h, r: (zlib.compress(b"[" * 100_000), r),
    "an inflated header": lambda h, r: (zlib.compress(b" " * 2**27), r),
    "a header cut short": lambda h, r: (zlib.compress(json.dumps(h).encode())[:-4], r),
    "inflated values": lambda h, r: (
        h | {"values": [["<f4", [10]]]},
        r[: h["masks"]] + b"\1" + zlib.compress(bytes(2**27)),
    ),
    "more values than declared": lambda h, r: r + b"1234",
    "no values": lambda h, r: r[:2],
}


@pytest.mark.parametrize("name", SEALED)
def test_a_file_gets_no_more_than_it_holds(name, tmp_path):
    path = tmp_path / "t.npz"
    forged(TICKETS["masks"](), path, SEALED[name])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"not a ticket, or is damaged: [^\n]+$"):
            Ticket.load(path)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


CHANGED = {
    "name": entry(0, "another"),
    "mask": lambda h, r: bytes([r[0] ^ 1]) + r[1:],
    "code": entry(3, [22, 0]),
    "network": field("network", {"architecture": {"name": "lenet5"}}),
    "seed": field("seed", dataclasses.asdict(SEED)),
}


@pytest.mark.parametrize("name", CHANGED)
def test_the_checksum_covers_everything(name, tmp_path):
    forged(TICKETS["masks"](), tmp_path / "t.npz", CHANGED[name], seal=False)
    with pytest.raises(ValueError, match="damaged: the checksum does not match"):
        Ticket.load(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("first", "message"),
    [(99, "format 99 is newer than this program's 3"), (2, "the checksum does not match")],
)
def test_other_formats_in_this_ones_clothes_are_refused(first, message, tmp_path):
    forged(TICKETS["masks"](), tmp_path / "t.npz", lambda h, r: None, first)
    with pytest.raises(ValueError, match=message):
        Ticket.load(tmp_path / "t.npz")


# The formats before.


def digest(arrays):
    sha = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        value = np.ascontiguousarray(value)
        sha.update(f"{name}{value.dtype.str}{value.shape}".encode() + value.tobytes())
    return sha


def older(ticket):
    """Arrays and header that the formats 1 and 2 have in common."""
    arrays = {f"mask_{i}": np.packbits(e.mask) for i, e in enumerate(ticket.entries)}
    kernels = {f"kernel_{i}": e.kernel for i, e in enumerate(ticket.entries)}
    arrays |= {name: value for name, value in kernels.items() if value is not None}
    arrays |= {f"leftover_{i}": np.asarray(value) for i, value in enumerate(ticket.leftovers)}
    header = {
        "entries": [
            {"name": e.name, "shape": e.shape, "mask_shape": e.mask.shape} for e in ticket.entries
        ],
        "leftovers": len(ticket.leftovers),
        "network": ticket.network,
        "seed": ticket.seed and dataclasses.asdict(ticket.seed),
    }
    return arrays, header


def as_array(header):
    return np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)


def of_format_1(ticket, change=lambda arrays, header: None):
    arrays, header = older(ticket)
    header |= {"format": 1, "sha256": digest(arrays).hexdigest()}
    change(arrays, header)
    return in_archive(arrays | {"header": as_array(header)})


def of_format_2(ticket, change=lambda arrays, header: None, sealed=False):
    arrays, header = older(ticket)
    arrays["header"] = as_array(header | {"format": 2})
    sha = np.frombuffer(digest(arrays).digest(), np.uint8)
    change(arrays, header)
    arrays["header"] = as_array(header | {"format": 2})
    if sealed:
        sha = np.frombuffer(digest(arrays).digest(), np.uint8)
    return in_archive(arrays | {"sha256": sha})


def in_archive(arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


OLDER = {1: of_format_1, 2: of_format_2}
every_older = pytest.mark.parametrize("number", OLDER)


@every_older
@every_ticket
def test_files_of_the_formats_before_are_still_read(name, number, tmp_path):
    ticket = TICKETS[name]()
    (tmp_path / "old.npz").write_bytes(OLDER[number](ticket))
    again = Ticket.load(tmp_path / "old.npz")
    same(ticket, again)
    ticket.save(tmp_path / "new.npz")
    again.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "new.npz").read_bytes()


def swapped(arrays, header):
    arrays["kernel_0"], arrays["kernel_1"] = arrays["kernel_1"], arrays["kernel_0"]


OLD_DAMAGE = {  # what is changed in a file whose archive stays sound, and whether format 1 knew
    "weight": (lambda a, h: a.update(kernel_0=a["kernel_0"] + np.float32(1)), True),
    "mask": (lambda a, h: a.update(mask_1=a["mask_1"] ^ 1), True),
    "shape": (lambda a, h: a.update(kernel_0=a["kernel_0"].reshape(4, 18)), True),
    "name": (lambda a, h: h["entries"][0].update(name="another"), False),
    "network": (lambda a, h: h.update(network={"architecture": {"name": "lenet5"}}), False),
    "seed": (lambda a, h: h.update(seed={"seed": 1, "initializer": "kaiming_normal"}), False),
}


@every_older
@pytest.mark.parametrize("name", OLD_DAMAGE)
def test_the_formats_before_had_checksums_too(name, number, tmp_path):
    change, known_to_both = OLD_DAMAGE[name]
    if number == 2 or known_to_both:
        file = OLDER[number](TICKETS["stored"](), change)
        (tmp_path / "t.npz").write_bytes(file)
        with pytest.raises(ValueError, match="damaged: the checksum does not match"):
            Ticket.load(tmp_path / "t.npz")


OLD_HOSTILE = {
    "a huge mask": lambda a, h: h["entries"][0].update(mask_shape=[HUGE, 1, 1, 1]),
    "a negative mask": lambda a, h: h["entries"][0].update(mask_shape=[-1, 1, 1, 1]),
}


@pytest.mark.parametrize("name", OLD_HOSTILE)
def test_the_formats_before_get_no_more_than_they_hold(name, tmp_path):
    file = of_format_2(TICKETS["masks"](), OLD_HOSTILE[name], sealed=True)
    (tmp_path / "t.npz").write_bytes(file)
    with pytest.raises(ValueError, match="bytes do not hold a mask of"):
        Ticket.load(tmp_path / "t.npz")


def test_an_array_that_is_larger_than_its_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        kind = {"descr": "<f4", "fortran_order": False, "shape": (HUGE,)}
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, kind)
        archive.writestr("header.npy", header.getvalue())
    with pytest.raises(ValueError, match="not a ticket, or is damaged"):
        Ticket.load(tmp_path / "t.npz")


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04", bytes(1000)])
def test_what_is_no_ticket_is_refused(content, tmp_path):
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(ValueError, match="is not a ticket"):
        Ticket.load(tmp_path / "t.npz")
