"""Rule texts: what they mean, and what is refused because no chip could hold it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeloop.hardware.learning.rule import ARITHMETICS, LearningRule, Trace, decay_per_epoch, grids
from spikeloop.hardware.learning.rule_text import FACTORS, Factor, parse
from spikeloop.hardware.loihi.projection import LEARNED_BITS


def only(text, **options):
    (product,) = parse(text, **options)
    return product


def test_a_sum_of_products():
    first, second = parse("dw = 2^-2*x1*y0 - 3 * 2 ^ -4 * y1 * x0")
    assert (first.gate, first.mantissa, first.exponent, first.factors) == ("y0", 1, -2, (Factor("x1"),))
    assert (second.gate, second.mantissa, second.exponent, second.factors) == ("x0", -3, -4, (Factor("y1"),))


def test_constants_signs_and_gates_without_factors():
    assert only("u3*sgn(w-10)*(x1 + 3)").factors == (Factor("w", -10, True), Factor("x1", 3))
    assert only("u3*sgn(t)").factors == (Factor("t", None, True),)
    assert (only("-2^-1*u0").mantissa, only("-2^-1*u0").factors) == (-1, ())
    assert only("u3*w").k == 3


def test_a_second_spike_variable_is_a_factor():
    product = only("x1*y0*y0*x0")
    assert (product.gate, product.factors) == ("y0", (Factor("x1"), Factor("y0"), Factor("x0")))


@pytest.mark.parametrize(
    "text, mantissa, exponent",
    [
        ("(1) * (-4) * x0", -4, 0),
        ("x0*2^1", 1, 1),
        ("6*x0", 6, 0),
        ("16*x0", 4, 2),
        ("-8*x0", -4, 1),
        ("0.25*x0", 1, -2),
        ("0.75*2^3*x0", 3, 1),
        ("(3*2^-2)*x0", 3, -2),
    ],
)
def test_mantissas_and_exponents(text, mantissa, exponent):
    assert (only(text).mantissa, only(text).exponent) == (mantissa, exponent)


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("2^-2*x1*foo*y0", r"term '2\^-2\*x1\*foo\*y0': unknown variable 'foo'"),
        ("x1*y0 - r0*x0", "r0 is not emulated"),
        ("x1*y0 + 9*x0", r"term '9\*x0': mantissa 9 does not fit 4 bits"),
        ("11*2^8*x0", "mantissa 11 does not fit"),
        ("2^-8*x0", r"exponent -8 is out of range \(-7..8\)"),
        ("2^9*x0", "exponent 9 is out of range"),
        ("0.3*x0", "0.3 is no mantissa"),
        ("3^2*x0", "only powers of 2"),
        ("x1*y1", "no dependency"),
        ("x0*u0", "two dependencies, x0 and u0"),
        ("u0*y0", "two dependencies, u0 and y0"),
        ("u0*u1", "two dependencies, u0 and u1"),
        ("u10*x1", "u0 to u9"),
        ("x0*(y1-129)", "constant -129 does not fit 8 bits"),
        ("x0*(y1", "unbalanced"),
        ("x0)*y1", "unbalanced"),
        ("x0*y1*", "ends in an operator"),
        ("x0 + - y0", "two operators"),
        ("x0/2", "expected"),
        ("x0*sgn(3)", "sgn"),
        ("x0 y0", "expected"),
        ("2^x1*x0", "expected an integer"),
        ("dt = x0", "must be dw"),
        ("x0**2", "is not part of a rule"),
        ("__import__('os')*x0", "expected|not part|unknown"),
    ],
)
def test_what_hardware_could_not_hold_is_refused_by_term(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(text)


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({}, "needs dw, dt or dd"),
        ({"dw": "u0*w", "dt": "u1*t"}, r"share one epoch, got u0 \(dw: u0\*w\) and u1 \(dt: u1\*t\)"),
        ({"dw": "x0*x1*y1*w*t"}, r"dw, term 'x0\*x1\*y1\*w\*t': the product takes 33 bits, the register holds 31"),
        ({"dw": "x0*x1*x2*y1*y2", "profile": "lava"}, "takes 32 bits"),
        ({"dw": "x0", "epoch": 64}, "epoch must be an integer, 1..63 ticks, got 64"),
        ({"dw": "x0", "epoch": 2.5}, r"epoch must be an integer, 1..63 ticks, got 2\.5"),
        ({"dw": "x0", "epoch": True}, "epoch must be an integer"),
        ({"dw": "+".join(["x0*y1"] * 200)}, "dw: a rule may have at most 16 products, got 200"),
        ({"dw": "x0", "profile": "intel"}, "profile must be one of"),
        ({"dw": "x0", "rounding": "up"}, "rounding"),
        ({"dw": "x0", "residue_bits": 3}, "residue_bits"),
        ({"dw": "x0", "x1": Trace(128, 1)}, "impulse of x1 must be 0..127, got 128"),
        ({"dw": "x0", "y3": Trace(1, -1)}, "tau of y3"),
        ({"dw": "x0", "r1": Trace(float("nan"), 1)}, "impulse of r1"),
        ({"dw": "x0*r1", "profile": "brian"}, "profile 'brian' knows"),
        ({"dt": "x0", "profile": "brian"}, "profile 'brian' knows"),
        ({"dw": "x0", "profile": "brian", "wide_shift": True}, "profile 'brian' knows"),
    ],
)
def test_rules_no_chip_holds_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        LearningRule(**options)


def test_wide_shifts_hold_more():
    with pytest.raises(ValueError, match="mantissa -13"):
        LearningRule(dt="-13*2^-7*u0*t")
    rule = LearningRule(dt="-13*2^-7*u0*t", dw="2^-13*u0*r1*x2", wide_shift=True)
    assert rule.overflow(rule.products()[0][1]) == 0


@pytest.mark.parametrize(
    "profile, text, overflow",
    [
        ("nengo", "u0*x1*y1", 2),
        ("nengo", "u0*t*r1", 3),
        ("nengo", "u0*w", 0),
        ("lava", "u0*x1*y1", 3),
        ("lava", "u0*t*y2", 5),
        ("lava", "u0*w", 0),
        ("brian", "u0*x1*y1", 0),
    ],
)
def test_scaling_of_products(profile, text, overflow):
    rule = LearningRule(dw=text, profile=profile)
    assert rule.overflow(rule.products()[0][1]) == overflow


def test_rules_are_values():
    assert LearningRule(dw="x0*y1", y1=Trace(3, 4)) == LearningRule(dw="x0*y1", y1=Trace(3, 4))
    assert len({LearningRule(dw="x0"), LearningRule(dw="x0"), LearningRule(dw="y0")}) == 2


def test_learned_weights_keep_to_the_grid_of_their_bits():
    rule = LearningRule(dw="x0")
    assert grids(rule, "mixed", 8)["w"] == (-254, 254, 2)
    assert grids(rule, "excitatory", 8)["w"] == (0, 255, 1)
    assert grids(rule, "inhibitory", 4)["w"] == (-240, 0, 16)
    assert grids(LearningRule(dw="x0", profile="lava"), "mixed", 8)["w"] == (-256, 255, 1)


@pytest.mark.parametrize("profile", sorted(ARITHMETICS))
@pytest.mark.parametrize("mode", ["mixed", "excitatory", "inhibitory"])
@pytest.mark.parametrize("bits", LEARNED_BITS)
def test_the_ends_of_a_grid_lie_on_it(profile, mode, bits):
    low, high, step = grids(LearningRule(dw="x0", profile=profile), mode, bits)["w"]
    assert low % step == high % step == 0


def written(draw):
    """Return the text of one product with what it means."""
    gate, k = draw(st.sampled_from([("x0", 0), ("y0", 0), ("u", 2)]))
    mantissa, exponent = draw(st.integers(-7, 7).filter(bool)), draw(st.integers(-7, 8))
    factors = tuple(
        Factor(draw(st.sampled_from(FACTORS)), draw(st.none() | st.integers(-128, 127)), draw(st.booleans()))
        for _ in range(draw(st.integers(0, 3)))
    )
    factors = tuple(f for f in factors if not (gate == "u" and f.variable in ("x0", "y0")))
    pieces = [f"({mantissa})", f"2^{exponent}", "u2" if gate == "u" else gate]
    for factor in factors:
        inside = factor.variable if factor.constant is None else f"{factor.variable}{factor.constant:+d}"
        pieces.append(f"sgn({inside})" if factor.sign else f"({inside})")
    return "*".join(pieces), (gate, k, mantissa, exponent, factors)


@given(st.lists(st.composite(written)(), min_size=1, max_size=4))
def test_any_sum_of_products_reads_back(terms):
    products = parse(" + ".join(text for text, _ in terms))
    assert [(p.gate, p.k, p.mantissa, p.exponent, p.factors) for p in products] == [meaning for _, meaning in terms]


@given(st.text(alphabet="x0y1u2wtd^*+-()sgn. 79=", max_size=30))
def test_any_text_is_a_rule_or_refused_in_one_line(text):
    try:
        parse(text)
    except ValueError as error:
        assert "\n" not in str(error)


def test_time_constants_become_decays_in_one_place():
    trace = Trace(1, 10)
    np.testing.assert_allclose(
        [decay_per_epoch(trace, LearningRule(dw="x0", epoch=4, profile=p)) for p in ("nengo", "lava")],
        [np.exp(-0.4), np.exp(-0.1)],
    )
    assert decay_per_epoch(trace, LearningRule(dw="x0", profile="brian")) == 0.9
    assert decay_per_epoch(Trace(1, 0), LearningRule(dw="x0")) == 0
