"""The text of learning rules: a parser from text to the sums of products that a chip's learning engine could hold.

A rule changes a variable z of each synapse (weight w, tag t, delay d) once per learning epoch,

    z <- z + sum_i  m_i * 2^e_i * prod_j (V_ij + C_ij)

with a 4-bit mantissa m, an exponent e in -7..8, variables V and 8-bit constants C (Davies et al. 2018, eq. 4 and
table 1). Each product is gated by one dependency: ``x0`` (the presynaptic neuron spiked in the epoch; traces are taken
at that time), ``y0`` (likewise the postsynaptic neuron), or ``u0``, ``u1``, ... (every 2^k epochs, traces at the end of
the epoch). Text: ``dw = 2^-2*x1*y0 - 2^-2*y1*x0``, ``dt = 3*2^-4*x0*(y1-20) - 2^-1*u0*sgn(t)``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from spikeloop.spiking.fields import shown

FACTORS = ("x0", "x1", "x2", "y0", "y1", "y2", "y3", "r1", "w", "d", "t")
_MAX_EXPONENT = 8
MAX_PRODUCTS = (
    16  # of one variable. Ours: how many words of microcode a core holds is not public; published rules take 4
)
_MAX_TEXT = 5_000  # characters of a rule; 16 products are written in some 500
_MAX_DEPTH = 10  # of parentheses in parentheses
_MAX_DIGITS = 40  # of a number
_TOKEN = re.compile(r"\s*(?:(\d+\.\d+|\d+)|([A-Za-z_]\w*)|(.))")
_U = re.compile(r"u(\d+)$")


@dataclass(frozen=True)
class Factor:
    """One factor (V + C) of a product, or its sign.

    Args:
        variable: One of ``FACTORS``.
        constant: C, -128..127; None if the text has none.
        sign: Whether the factor is sgn(V + C).
    """

    variable: str
    constant: int | None = None
    sign: bool = False


@dataclass(frozen=True)
class Product:
    """One product m * 2^e * gate * factors.

    Args:
        text: What was written, for messages.
        gate: "x0", "y0" or "u".
        k: Of a product gated by u_k; else 0.
        mantissa: m.
        exponent: e.
        factors: The factors, in the order written.
    """

    text: str
    gate: str
    k: int
    mantissa: int
    exponent: int
    factors: tuple[Factor, ...]


@lru_cache(maxsize=256)
def parse(text: str, variable: str = "w", wide: bool = False) -> tuple[Product, ...]:
    """Parse the text of one rule.

    Args:
        text: Sum of products, with or without "dw =" (the left side must then match); "" has none.
        variable: The synaptic variable that the rule changes: "w", "t" or "d".
        wide: Whether mantissas of 8 bits and exponents -16..8 are allowed.

    Raises:
        ValueError: Naming the term that the hardware could not hold, and why.
    """
    text = " ".join(text.split())  # in one line: it is written into source as a comment
    if len(text) > _MAX_TEXT or not (text.isascii() and text.isprintable()):
        raise ValueError(f"d{variable}: a rule must be of {_MAX_TEXT} ASCII characters at most, got {shown(text)}")
    left, equals, right = text.rpartition("=")
    if equals and left.strip() != f"d{variable}":
        raise ValueError(f"d{variable}: the left side of {shown(text)} must be d{variable}")
    if not right.strip():
        return ()
    terms = _split_terms(right, variable)
    if len(terms) > MAX_PRODUCTS:
        raise ValueError(f"d{variable}: a rule may have at most {MAX_PRODUCTS} products, got {len(terms)}")
    return tuple(_Term(term, sign, variable).product(wide) for sign, term in terms)


def _split_terms(text: str, variable: str) -> list[tuple[int, str]]:
    """Cut a sum at its outer + and - (not at the signs of exponents and factors)."""
    terms: list[tuple[int, str]] = []
    depth, start, sign, previous = 0, 0, 1, ""
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth < 0:
            raise ValueError(f"d{variable}: unbalanced ')' in {shown(text)}")
        if depth > _MAX_DEPTH:
            raise ValueError(f"d{variable}: parentheses must nest at most {_MAX_DEPTH} deep, got {shown(text)}")
        if character in "+-" and depth == 0 and previous not in ("*", "^"):
            if previous:
                terms.append((sign, text[start:position].strip()))
            elif start:
                raise ValueError(f"d{variable}: two operators in a row in {shown(text)}")
            start, sign, previous = position + 1, 1 if character == "+" else -1, ""
        elif not character.isspace():
            previous = character
    if depth:
        raise ValueError(f"d{variable}: unbalanced '(' in {shown(text)}")
    if previous in ("", "*", "^"):
        raise ValueError(f"d{variable}: {shown(text)} ends in an operator")
    return [*terms, (sign, text[start:].strip())]


class _Term:
    """Reads one product, factor by factor, from left to right."""

    def __init__(self, text: str, sign: int, variable: str) -> None:
        self.text, self.variable = f"-{text}" if sign < 0 else text, variable
        self.tokens = [m.group(0).strip() for m in _TOKEN.finditer(text) if m.group(0).strip()]
        self.at = 0
        self.mantissa, self.exponent = sign, 0
        self.gate, self.k = "", 0
        self.factors: list[Factor] = []

    def error(self, reason: str) -> ValueError:
        return ValueError(f"d{self.variable}, term {shown(self.text)}: {reason}")

    def product(self, wide: bool) -> Product:
        self.factor()
        while self.at < len(self.tokens):
            self.take("*")
            self.factor()
        if not self.gate:
            raise self.error("no dependency; it needs x0, y0 or u0, u1, ...")
        low, high = (-128, 127) if wide else (-8, 7)
        # Even mantissas that are too large move into the exponent, as Lava moves them.
        while abs(self.mantissa) > high and self.mantissa % 2 == 0 and self.exponent < _MAX_EXPONENT:
            self.mantissa, self.exponent = self.mantissa // 2, self.exponent + 1
        if not low <= self.mantissa <= high:
            raise self.error(f"mantissa {self.mantissa} does not fit {8 if wide else 4} bits ({low}..{high})")
        lowest = -16 if wide else -7
        if not lowest <= self.exponent <= _MAX_EXPONENT:
            raise self.error(f"exponent {self.exponent} is out of range ({lowest}..{_MAX_EXPONENT})")
        return Product(self.text, self.gate, self.k, self.mantissa, self.exponent, tuple(self.factors))

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise self.error(f"expected {expected or 'a factor'}, got {token or 'the end'!r}")
        self.at += 1
        return token

    def factor(self) -> None:
        token = self.take()
        while token in "+-":
            self.mantissa *= -1 if token == "-" else 1
            token = self.take()
        if len(token) > _MAX_DIGITS:
            raise self.error(f"{shown(token)} is longer than any number or name of a rule")
        if token[0].isdigit():
            self.number(token)
        elif token == "(":
            self.parenthesis(sign=False)
        elif token in ("sgn", "sign"):
            self.take("(")
            self.parenthesis(sign=True)
        elif token[0].isalpha():
            self.name(token)
        else:
            raise self.error(f"{token!r} is not part of a rule; a sum of products has only + - * ^ ( )")

    def number(self, token: str) -> None:
        if self.peek() == "^":
            self.take()
            negative = self.peek() == "-"
            if negative:
                self.take()
            if token != "2":
                raise self.error(f"only powers of 2 exist, got {token}^")
            self.exponent += (-1 if negative else 1) * self.integer(self.take())
        elif "." in token:
            numerator, denominator = float(token).as_integer_ratio()
            if denominator > 2**16:
                raise self.error(f"{token} is no mantissa times a power of 2")
            self.mantissa *= numerator
            self.exponent -= denominator.bit_length() - 1
        else:
            self.mantissa *= int(token)

    def integer(self, token: str) -> int:
        if not token.isdigit() or len(token) > _MAX_DIGITS:
            raise self.error(f"expected an integer, got {shown(token)}")
        return int(token)

    def parenthesis(self, sign: bool) -> None:
        """Read ``number)``, ``variable)`` or ``variable +- constant)``."""
        if not self.peek()[:1].isalpha():
            if sign:
                raise self.error("sgn() takes w, t, d or another variable")
            self.factor()
            while self.peek() == "*":
                self.take()
                self.factor()
            self.take(")")
            return
        name, constant = self.take(), None
        if self.peek() in ("+", "-"):
            negative = self.take() == "-"
            constant = (-1 if negative else 1) * self.integer(self.take())
            if not -128 <= constant <= 127:
                raise self.error(f"constant {constant} does not fit 8 bits (-128..127)")
        self.take(")")
        if constant is None and not sign:
            self.name(name)
        else:
            self.add(Factor(name, constant, sign))

    def name(self, name: str) -> None:
        if (match := _U.match(name)) is not None:
            if self.gate:
                raise self.error(f"two dependencies, {self.gate if self.gate != 'u' else f'u{self.k}'} and {name}")
            self.gate, self.k = "u", int(match.group(1))
            if self.k > 9:
                raise self.error(f"epochs go from u0 to u9, got {name}")
        elif name in ("x0", "y0") and not self.gate:
            self.gate = name
        elif name in ("x0", "y0") and self.gate == "u":
            raise self.error(f"two dependencies, u{self.k} and {name}")
        else:
            self.add(Factor(name))

    def add(self, factor: Factor) -> None:
        if factor.variable == "r0":
            raise self.error("r0 is not emulated: nothing public says what it does; use r1")
        if factor.variable not in FACTORS:
            raise self.error(f"unknown variable {factor.variable!r}; there are u0.., {', '.join(FACTORS)}")
        self.factors.append(factor)
