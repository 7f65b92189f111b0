"""What requests in Stripe's form hold: urlencoded, with brackets for what is nested."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steps.gateways.sandbox.records import Answer
from steps.gateways.sandbox.stripe_face.form import parameter_error

LARGEST_PAGE: Final = 100
_NEVER: Final = 2**53

P = TypeVar("P", bound="Parameters")
Id = Annotated[str, Field(min_length=1, max_length=255)]
Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=40)], Annotated[str, Field(max_length=500)]],
    Field(max_length=50),
]


class RefusedError(Exception):
    """The request cannot be understood, so it is not counted under any key."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("refused")
        self.answer = answer


class Parameters(BaseModel):
    """Everything may be expanded; `expand` names what."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    expand: list[str] = []


class CardOptions(BaseModel):
    """How a card is to be charged."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    request_three_d_secure: Literal["any", "automatic", "challenge"] = "automatic"


class MethodOptions(BaseModel):
    """How a payment method is to be charged, by its type."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    card: CardOptions = CardOptions()


class Create(Parameters):
    """POST /v1/payment_intents. Only capture by hand is played."""

    amount: int
    currency: Annotated[str, Field(min_length=3, max_length=3)]
    capture_method: Literal["manual"]
    confirm: bool = False
    payment_method: str = ""
    payment_method_types: list[Literal["card"]] = ["card"]
    payment_method_options: MethodOptions = MethodOptions()
    return_url: str = ""
    description: str = ""
    metadata: Metadata = {}


class Confirm(Parameters):
    """POST /v1/payment_intents/{id}/confirm"""

    payment_method: str = ""
    return_url: str = ""


class Capture(Parameters):
    """POST /v1/payment_intents/{id}/capture. Without an amount everything is taken."""

    amount_to_capture: int | None = None
    metadata: Metadata = {}


class Cancel(Parameters):
    """POST /v1/payment_intents/{id}/cancel"""

    cancellation_reason: Literal[
        "", "duplicate", "fraudulent", "requested_by_customer", "abandoned"
    ] = ""


class Refund(Parameters):
    """POST /v1/refunds. Without an amount all that is left is given back."""

    payment_intent: Id
    amount: int | None = None
    reason: Literal["", "duplicate", "fraudulent", "requested_by_customer"] = ""
    metadata: Metadata = {}


class Retrieve(Parameters):
    """GET of one object."""


class Created(BaseModel):
    """A range of seconds since the epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    gt: int | None = None
    gte: int | None = None
    lt: int | None = None
    lte: int | None = None

    @property
    def start(self) -> int:
        """The first second that is in."""
        return max(0 if self.gt is None else self.gt + 1, self.gte or 0)

    @property
    def end(self) -> int:
        """The first second that is out."""
        last = _NEVER if self.lte is None else self.lte
        return min(last + 1, _NEVER if self.lt is None else self.lt)


class Page(Parameters):
    """GET of a list, newest first."""

    created: Created = Created()
    limit: Annotated[int, Field(ge=1, le=LARGEST_PAGE)] = 10
    starting_after: str | None = None


class Refunds(Page):
    """GET /v1/refunds"""

    payment_intent: str | None = None
    charge: str | None = None

    @property
    def payment(self) -> str | None:
        """The payment whose refunds are asked for, by either of its names; None asks for all."""
        return self.payment_intent or (self.charge and f"pi_{self.charge.partition('_')[2]}")


class Events(Page):
    """GET /v1/events"""

    type: str | None = None
    types: list[str] = []


class Search(Parameters):
    """GET /v1/payment_intents/search; all clauses joined by AND, or all by OR."""

    query: str
    limit: Annotated[int, Field(ge=1, le=LARGEST_PAGE)] = 10
    page: str | None = None


def parameters(encoded: str, kind: type[P]) -> P:
    """The parameters of a body or a query string.

    Raises:
        RefusedError: one is missing, unknown or malformed.
    """
    try:
        return kind.model_validate(nested(parse_qsl(encoded, keep_blank_values=True)))
    except ValidationError as wrong:
        first = wrong.errors(include_input=False, include_url=False)[0]
        param = ".".join(map(str, first["loc"]))
        code = {"missing": "parameter_missing", "extra_forbidden": "parameter_unknown"}
        raise RefusedError(
            parameter_error(
                f"{param}: {first['msg']}", param=param, code=code.get(first["type"], "")
            )
        ) from wrong


def nested(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """``a[b]=1`` as ``{"a": {"b": "1"}}`` and ``a[0]=1`` or ``a[]=1`` as ``{"a": ["1"]}``."""
    tree: dict[str, Any] = {}
    for name, value in pairs:
        *path, last = re.findall(r"[^\[\]]+|(?<=\[)(?=\])", name) or [name]
        branch = tree
        for part in path:
            inner = branch.setdefault(part, {})
            branch = inner if isinstance(inner, dict) else {}
        branch[last or str(len(branch))] = value
    return {name: _listed(value) for name, value in tree.items()}


def _listed(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if value and all(name.isdecimal() for name in value):
        return [_listed(value[name]) for name in sorted(value, key=int)]
    return {name: _listed(each) for name, each in value.items()}
