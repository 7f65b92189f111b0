"""The rules that most shops need, each made from its limits and lists.

`finds` is what a rule says when it has found something: a decision, or points. Where a fact that
a rule asks about is not known it has no opinion; where the rule itself lacks what it needs (a
limit for the currency, a count) it asks for a review: not knowing is not approving.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import stringprep
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Final

from steps.fraud_engine import Finding, FraudContext, Phase, Rule
from steps.gateways.payment import CardChecks, CheckResult
from steps.money import Money
from steps.velocity import VelocityTracker
from steps.verdict import Decision

_GMAIL: Final = frozenset({"gmail.com", "googlemail.com"})

_MAPPED_BITS: Final = 96
"""Of an IPv4 address that is written as IPv6: what comes before the address itself."""

_QUOTED: Final = re.compile(r'"(.+)"')


def blocklist_rule(entries: Iterable[str], *, finds: Finding = Decision.BLOCK) -> Rule:
    """Find listed e-mail addresses, in any spelling of the same mailbox, and ranges of IPs.

    Args:
        entries: e-mail addresses, whole domains as ``@example.org``, IP addresses, and ranges in
            CIDR form, IPv4 and IPv6.
        finds: what to say of an order from one of them.

    Raises:
        ValueError: an entry is none of these, or a range has bits of a host. The message names its
            place in the list, and not the entry.
    """
    listed: set[str] = set()
    domains: set[str] = set()
    ranges: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for place, entry in enumerate(entries, start=1):
        try:
            if entry.startswith("@"):
                domains.add(_listed_domain(entry[1:]))
            elif "@" in entry:
                listed.add(normalised_email(entry))
            else:
                ranges.append(_listed_range(entry))
        except ValueError:
            raise ValueError(
                f"entry {place} of the blocklist is no e-mail address, @domain, IP address or range"
            ) from None

    def by_mailbox(context: FraudContext) -> bool:
        if context.email is None:
            return False
        email = normalised_email(context.email)
        return email in listed or email.rpartition("@")[2] in domains

    def by_address(context: FraudContext) -> bool:
        if context.ip is None:
            return False
        address = normalised_ip(context.ip)
        return any(address in each for each in ranges)

    def judge(context: FraudContext) -> Finding | None:
        unreadable = None
        for is_listed in (by_mailbox, by_address):
            try:
                if is_listed(context):
                    return finds
            except ValueError as error:  # rubbish in one fact hides nothing of the other
                unreadable = error
        if unreadable is not None:
            raise unreadable
        return None

    return Rule(name="blocklist", judge=judge)


def normalised_email(email: str) -> str:
    """One spelling per mailbox: no case, no quotes, no ``+tag``, and for Gmail no dots.

    Raises:
        ValueError: it is no e-mail address.
    """
    local, at, domain = _plain(email).rpartition("@")
    if quoted := _QUOTED.fullmatch(local):
        local = re.sub(r"\\(.)", r"\1", quoted[1])
    if not (local and at and domain):
        raise ValueError("not an e-mail address")
    mailbox = local.partition("+")[0] or local
    domain = _domain(domain)
    if domain in _GMAIL:
        return f"{mailbox.replace('.', '') or mailbox}@gmail.com"
    return f"{mailbox}@{domain}"


def _listed_range(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """As `normalised_ip` writes what is in it: ranges of IPv4 written as IPv6 are of IPv4."""
    listed = ipaddress.ip_network(entry)
    mapped = getattr(listed.network_address, "ipv4_mapped", None)
    if mapped is None or listed.prefixlen < _MAPPED_BITS:
        return listed
    return ipaddress.ip_network((mapped, listed.prefixlen - _MAPPED_BITS))


def _listed_domain(domain: str) -> str:
    """As it stands in a normalised address."""
    return normalised_email(f"any@{domain}").rpartition("@")[2]


def _domain(domain: str) -> str:
    """Its form on the wire: ASCII, without the dot of the root."""
    return domain.rstrip(".").encode("idna").decode("ascii").lower()


def _plain(text: str) -> str:
    """Without case, compatibility forms, spaces and characters that nobody sees."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(each for each in folded if not _is_unseen(each))


def _is_unseen(character: str) -> bool:
    """Spaces, control and format characters, and selectors of variants, which are marks."""
    if character.isspace() or unicodedata.category(character)[0] == "C":
        return True
    return stringprep.in_table_b1(character)


def normalised_ip(ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address itself, without a zone; an IPv4 address written as IPv6 is one of IPv4.

    Raises:
        ValueError: it is no IP address.
    """
    address = ipaddress.ip_address(ip.strip())
    if isinstance(address, ipaddress.IPv4Address):
        return address
    return address.ipv4_mapped or ipaddress.IPv6Address(int(address))


def avs_cvv_rule(
    *,
    wrong_cvv: Finding = Decision.BLOCK,
    wrong_address: Finding = Decision.REVIEW,
    unchecked_cvv: Finding = Decision.REVIEW,
) -> Rule:
    """Judge what the issuer said of the security code, then of the address.

    A code that the issuer did not check is suspicious, for nearly all do. An address that was not
    checked is not: outside a few countries no issuer looks at it. What was not told at all, because
    the shop sent nothing or the gateway has no word for it, is no opinion: it says nothing of the
    payer, and reviewing every order is reviewing none.

    Asked after the authorization only, for before it there is nothing to judge.
    """

    def judge(context: FraudContext) -> Finding | None:
        checks = context.card_checks or CardChecks()
        if checks.cvv in {CheckResult.MISMATCH, CheckResult.PARTIAL}:
            return wrong_cvv
        if checks.avs in {CheckResult.MISMATCH, CheckResult.PARTIAL}:
            return wrong_address
        return unchecked_cvv if checks.cvv is CheckResult.NOT_CHECKED else None

    return Rule(name="avs_cvv", judge=judge, phase=Phase.AFTER_AUTHORIZATION)


def velocity_rule(
    tracker: VelocityTracker,
    *,
    limit: int,
    window: timedelta,
    kind: str = "customer",
    of: Callable[[FraudContext], str | None] = lambda context: context.customer_id,
    finds: Finding = Decision.REVIEW,
) -> Rule:
    """Find who tries more than `limit` times within `window`; asking records the attempt.

    Args:
        tracker: what counts; where it fails the rule raises, and the order goes to review.
        limit: attempts that are still fine.
        window: how far back they count.
        kind: what `of` names; also part of the rule's name, so that several can be used together.
        of: whose attempts these are, for example an IP or an e-mail. Kept as a digest.
        finds: what to say of one attempt too many.
    """

    def judge(context: FraudContext) -> Finding | None:
        who = of(context)
        if who is None:
            return None
        subject = f"{kind}:{hashlib.sha256(who.encode()).hexdigest()}"
        count = tracker.record(subject, context.attempt_id, window, up_to=limit + 1)
        return finds if count > limit else None

    return Rule(name=f"velocity_{kind}", judge=judge)


def country_mismatch_rule(*, finds: Finding = Decision.REVIEW) -> Rule:
    """Find known countries of card, address and network that are not one and the same."""

    def judge(context: FraudContext) -> Finding | None:
        named = (context.card_country, context.billing_country, context.ip_country)
        known = {each.strip().upper() for each in named if each}
        return finds if len(known) > 1 else None

    return Rule(name="country_mismatch", judge=judge)


def high_amount_rule(review_above: Mapping[str, Money], *, block_times: int | None = None) -> Rule:
    """Review an amount above its currency's limit, and block one above so many times the limit.

    A currency without a limit is reviewed. A free order has no amount to judge.
    """

    def judge(context: FraudContext) -> Finding | None:
        amount = context.amount
        if amount.is_zero:
            return None
        limit = review_above.get(amount.currency)
        if limit is None:
            return Decision.REVIEW
        if block_times is not None and amount > limit * block_times:
            return Decision.BLOCK
        return Decision.REVIEW if amount > limit else None

    return Rule(name="high_amount", judge=judge)
