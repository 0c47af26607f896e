import numpy as np
import pytest

from rst_tf.entropy_coding import Code, decode, encode, entropy

SIZES = (0, 1, 2, 7, 64, 1728, 100_000)
DENSITIES = (0, 0.0005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.382, 0.5, 0.618, 0.7, 0.9, 0.999, 1)
every_density = pytest.mark.parametrize("density", DENSITIES)


def drawn(size, density, seed=0):
    mask = np.zeros(size, bool)
    mask[np.random.default_rng(seed).permutation(size)[: round(density * size)]] = True
    return mask


def decoded(masks, codes, content):
    return decode(content, [mask.size for mask in masks], codes)


@every_density
def test_masks_come_back_alone_and_together(density):
    masks = [drawn(size, density) for size in SIZES]
    for several in ([], *([mask] for mask in masks), masks, masks[::-1]):
        codes, content = encode(several)
        for found, mask in zip(decoded(several, codes, content), several, strict=True):
            np.testing.assert_array_equal(found, mask)
            assert found.dtype == bool
        assert [code.kept for code in codes] == [mask.sum() for mask in several]
        longer = decoded(several, codes, content + bytes(3))
        assert all(map(np.array_equal, longer, several))


@every_density
@pytest.mark.parametrize("size", [1728, 100_000])
def test_a_random_mask_costs_little_more_than_its_entropy(size, density):
    mask = drawn(size, density, seed=1)
    bound = entropy(size, int(mask.sum()))
    assert len(encode([mask])[1]) <= 1.05 * bound / 8 + (2 if size > 1728 else 8)


STRUCTURED = {  # no mask of a table's density costs more, however regular: see the entropy
    "every fourth": np.arange(100_000) % 4 == 0,
    "every sixteenth": np.arange(100_000) % 16 == 0,
    "one block": np.arange(100_000) < 5000,
    "the last": np.arange(100_000) == 99_999,
    "whole filters": np.broadcast_to(drawn(64, 0.25), (1000, 64)),
    "Fortran order": np.asfortranarray(drawn(100_000, 0.1).reshape(100, 1000)),
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_structured_masks_stay_within_the_bound(name):
    mask = STRUCTURED[name]
    codes, content = encode([mask])
    np.testing.assert_array_equal(decoded([mask], codes, content)[0], mask.ravel())
    assert len(content) <= 1.1 * entropy(mask.size, int(mask.sum())) / 8 + 2


@pytest.mark.parametrize("size", range(1, 9))
def test_all_small_masks_are_told_apart(size):
    masks = [np.array([n >> i & 1 for i in range(size)], bool) for n in range(2**size)]
    found = [encode([mask]) for mask in masks]
    assert len({(codes[0], content) for codes, content in found}) == 2**size
    for mask, (codes, content) in zip(masks, found, strict=True):
        np.testing.assert_array_equal(decoded([mask], codes, content)[0], mask)


@pytest.mark.parametrize(
    ("size", "kept", "bits"),
    [(4, 1, 3.2451), (1000, 500, 1000), (10, 0, 0), (10, 10, 0), (0, 0, 0)],
)
def test_entropy_by_hand(size, kept, bits):
    assert entropy(size, kept) == pytest.approx(bits, abs=1e-4)


def test_the_bytes_are_what_they_were():
    """Runs 0, 9 and 4: a low bit of each, 0, 1, 0; then the rest, 0, 4 and 2, in unary."""
    mask = np.zeros(20, bool)
    mask[[0, 10, 15]] = True
    codes, content = encode([mask])
    assert codes == [Code(3, 1)]
    assert content == bytes([0b0_1_0_00000, 0b1_00001_00, 0b1_0000000])


WRONG = {
    "too few bytes": (b"", [20], [Code(3, 2)]),
    "too few marks": (bytes(2), [20], [Code(3, 2)]),
    "too many marks": (bytes([0, 255]), [20], [Code(3, 2)]),
    "a mark beyond the end": (bytes([0, 0b1_001_01_00]), [9], [Code(3, 2)]),
    "a run beyond all numbers": (bytes([0, 0b0000_0001]), [8], [Code(1, 4)]),
    "a shift beyond the size": (bytes(30), [20], [Code(3, 60)]),
    "a negative shift": (bytes(30), [20], [Code(3, -1)]),
    "more kept than there are": (bytes(30), [20], [Code(21, 0)]),
    "a negative number": (bytes(30), [20], [Code(-1, 0)]),
    "10^15 marks": (bytes(30), [10**16], [Code(10**15, 0)]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_code_is_refused(name):
    content, sizes, codes = WRONG[name]
    with pytest.raises(ValueError, match=r"entries|marked"):
        decode(content, sizes, codes)
