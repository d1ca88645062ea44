"""Money: a whole number of minor units and a currency. No floats, no silent conversion."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from onefold.core.errors import Invalid
from onefold.core.limits import shaped, whole

MINOR_MAX = 10**15  # Ten trillion in cents; leaves room to sum 9,000 of them in 64 bits.

_CURRENCY = re.compile(r"[A-Z]{3}")
Currency = Annotated[str, shaped(_CURRENCY)]

# ISO 4217 (2024): currencies whose minor unit is not 1/100.
_EXPONENTS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG"), 0),
    **dict.fromkeys(("RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    "CLF": 4,
    "UYW": 4,
}


class Money(msgspec.Struct, frozen=True, order=False):
    """An amount: `minor` units (cents, yen, fils) of an ISO 4217 `currency`."""

    minor: Annotated[int, whole(-MINOR_MAX, MINOR_MAX)]
    currency: Currency

    def __post_init__(self) -> None:
        """Refuse what cannot be an amount."""
        if not _CURRENCY.fullmatch(self.currency):
            raise Invalid("A currency is three capital letters (ISO 4217).", currency=self.currency)
        if type(self.minor) is not int or not -MINOR_MAX <= self.minor <= MINOR_MAX:
            raise Invalid("An amount is a whole number of minor units.", most=MINOR_MAX)

    def __add__(self, other: Money) -> Money:
        """The sum; Invalid when the currencies differ."""
        return Money(self.minor + self._same(other), self.currency)

    def __sub__(self, other: Money) -> Money:
        """The difference; Invalid when the currencies differ."""
        return Money(self.minor - self._same(other), self.currency)

    def __mul__(self, times: int) -> Money:
        """The amount `times` over."""
        return Money(self.minor * times, self.currency)

    def __str__(self) -> str:
        """As people read it: "12.50 EUR", "1250 JPY", "1.250 KWD"."""
        digits = _EXPONENTS.get(self.currency, 2)
        sign, whole = ("-", -self.minor) if self.minor < 0 else ("", self.minor)
        if digits == 0:
            return f"{sign}{whole} {self.currency}"
        units, rest = divmod(whole, 10**digits)
        return f"{sign}{units}.{rest:0{digits}d} {self.currency}"

    def _same(self, other: Money) -> int:
        if other.currency != self.currency:
            raise Invalid("Amounts of different currencies do not add.", ours=self.currency, theirs=other.currency)
        return other.minor
