"""What is configured about deletions: the targets, and the routes that lead to them.

A route says which authority from which source reaches which target, how the two customers are linked, and whether the
deletion runs by itself, waits for a person or is off. Nothing is deleted anywhere without a route (or an operator's
erasure), and what a route leaves unsaid is the cautious choice.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from worker.settings import Duration, HttpSettings, Model, Secret, SourceName

Authority = Literal["tombstone", "gone", "absent", "duplicate", "erasure"]
Mode = Literal["auto", "approval", "off"]
Link = Literal["same_id", "reference", "cluster"]


def _off(value: object) -> object:
    return "off" if value is False else value


# As it stands in the file, where YAML takes a bare `off` for false.
_Written = Annotated[Mode, BeforeValidator(_off), WithJsonSchema({"enum": [*get_args(Mode), False]})]

DEFAULT_MODES: Final[dict[Authority, Mode]] = {
    "tombstone": "auto",
    "gone": "auto",
    "absent": "approval",
    "duplicate": "approval",
    "erasure": "auto",
}
# What a Drivly customer may be related to; each would be left without its customer.
DRIVLY_RELATIONS: Final = (
    "deals",
    "deals2",
    "leads",
    "insurancePolicies",
    "consumerPreApprovals",
    "consumerVehicles",
    "companyDealerDeals",
    "companyDealsFacilitated",
    "companyDeals3",
    "companyInsuranceQuotes",
    "companyServiceQuotes",
    "companyServiceQuotesPartners",
    "companyTransportServiceOrders",
    "companyTrades",
    "companyCustomer",
)


class TargetSettings(HttpSettings):
    """What every target has, whatever its kind. A target that is a source too has the source's name."""

    enabled: bool = Field(default=True, description="Off: its requests wait, those of other targets go on")
    concurrency: int = Field(default=4, ge=1, le=256, description="Deletions of this target under way at once")
    max_attempts: int = Field(default=5, ge=1, description="DELETEs sent for one request before it has failed")
    undo: bool = Field(default=True, description="Keep an encrypted copy of what is deleted (never for an erasure)")
    canary_id: str | None = Field(
        default=None, min_length=1, description="A customer that is always there: tells 404 from a wrong base URL"
    )


class DrivlyTarget(TargetSettings):
    """The Drivly API's documented `DELETE /customers/{id}`."""

    kind: Literal["drivly"]
    key: Secret = Field(description="The whole value of the Authorization header")
    relations: tuple[str, ...] = Field(
        default=DRIVLY_RELATIONS, description="A duplicate with anything in one of these fields is not deleted"
    )


class HttpTarget(TargetSettings):
    """Any other API that can delete a customer by its id; `{id}` in a path is replaced by the encoded id."""

    kind: Literal["http"]
    method: Literal["DELETE", "POST", "PUT", "PATCH"] = "DELETE"
    path: str = Field(pattern=r"^/[^?#]*\{id\}[^?#]*$", description="Below the base URL, with {id}, without a query")
    body: dict[str, Any] | None = Field(default=None, description="Sent as JSON, where the API wants one")
    headers: dict[str, Secret] = Field(default_factory=dict, description="By header name, for example Authorization")
    id_pattern: str = Field(default=r"[A-Za-z0-9][A-Za-z0-9._:-]{0,199}", description="What a whole id looks like")
    done: frozenset[int] = Field(default=frozenset({200, 201, 203, 204, 205}), description="Statuses that mean deleted")
    gone: frozenset[int] = Field(default=frozenset({404, 410}), description="Statuses that mean there is none such")
    retry: frozenset[int] = Field(default=frozenset({429, 503}), description="Statuses that mean later, not done")
    lookup: str | None = Field(
        default=None, pattern=r"^/[^?#]*\{id\}[^?#]*$", description="Path of a GET that shows one customer"
    )
    id_field: str | None = Field(default=None, description="Field of the look-up's answer that holds the id")
    changed_field: str | None = Field(
        default=None, description="Field that holds the time of the last change (ISO 8601, or a number since 1970)"
    )
    created_field: str | None = Field(
        default=None, description="Field that holds the time of creation (ISO 8601, or a number since 1970)"
    )
    relations: tuple[str, ...] = ()

    def secrets(self) -> dict[str, Secret]:
        """Return the secrets of the headers as `headers.<name>`."""
        return {f"headers.{name}": secret for name, secret in self.headers.items()}

    @model_validator(mode="after")
    def _sensible(self) -> "HttpTarget":
        try:
            re.compile(self.id_pattern)
        except (re.error, OverflowError) as error:
            raise ValueError(f"id_pattern is not a regular expression: {error}") from error
        if self.canary_id is not None and self.lookup is None:
            raise ValueError("canary_id needs a lookup to be looked up by")
        if self.canary_id is not None and re.fullmatch(self.id_pattern, self.canary_id) is None:
            raise ValueError("canary_id does not match id_pattern")
        return self


Target = Annotated[DrivlyTarget | HttpTarget, Field(discriminator="kind")]


class Route(Model):
    """Which deletions from `source` are carried to `target`."""

    source: SourceName
    target: SourceName
    link: Link = Field(default="same_id", description="How the customer at the target is found")
    reference: str | None = Field(default=None, description="With link reference: the type of the typed id")
    classes: dict[Authority, _Written] = Field(
        default_factory=dict, description="By authority: auto, approval or off, over the defaults"
    )
    dry_run: bool = Field(default=False, description="Do everything but the DELETE")
    cooling: Duration | None = Field(
        default=None, description="From the request to the call; 15m by default for duplicates, else none"
    )

    @property
    def name(self) -> str:
        """What identifies the route: another link or target is another route, with a horizon of its own."""
        link = f"reference:{self.reference}" if self.link == "reference" else self.link
        return f"{self.source}>{self.target}:{link}"

    def mode(self, authority: Authority) -> Mode:
        """Return whether a deletion by `authority` runs by itself on this route.

        Within one system only a duplicate or an erasure makes sense (whatever else was deleted there is gone
        already); to another system a duplicate is never carried.
        """
        if authority in self.classes:
            return self.classes[authority]
        if (self.source == self.target) != (authority == "duplicate") and authority != "erasure":
            return "off"
        return DEFAULT_MODES[authority]

    @model_validator(mode="after")
    def _consistent(self) -> "Route":
        if (self.link == "reference") != (self.reference is not None):
            raise ValueError("a route with link: reference names the reference's type, any other route does not")
        if self.link == "cluster" and self.classes.get("duplicate", "off") != "off":
            raise ValueError("a duplicate is deleted by its own id: give it a route with link: same_id")
        if self.source != self.target and self.classes.get("duplicate", "off") != "off":
            # Nobody can tell whether the one that is to stay is there, too, or what the two are to that system.
            message = "a duplicate is deleted in its own system only: give it a route with source and target the same"
            raise ValueError(message)
        return self


class GuardSettings(Model):
    """How many deletions may run by themselves, by source and target."""

    window: Duration = Field(default=60.0, description="How long requests are gathered before they are judged")
    period: Duration = Field(default=86_400.0, gt=0, description="What is counted together")
    count: int = Field(default=10, ge=0, description="Held above max(this, the fraction)")
    fraction: float = Field(default=0.02, ge=0, le=1, description="Of the source's live customers")
    cap: int = Field(default=500, ge=0, description="Held above this in any case")

    def limit(self, live: int | None) -> int:
        """Return how many deletions may run by themselves in a period; `live` is the source's customers left."""
        return min(max(self.count, int(self.fraction * (live or 0))), self.cap)


class DuplicateSettings(Model):
    """When a duplicate customer may be deleted at all."""

    cooling: Duration = Field(default=900.0, description="How long its cluster has to have stayed as it is")
    score: float = Field(default=18.0, description="From two independent fields, where no unique id is exact")


class BreakerSettings(Model):
    """When a target is left alone for a while."""

    in_a_row: int = Field(default=5, ge=1)
    share: float = Field(default=0.2, gt=0, le=1, description="Of the last calls (see `last`)")
    last: int = Field(default=50, ge=1)
    pause: Duration = Field(default=30.0, gt=0, description="The first pause; it doubles up to `longest`")
    longest: Duration = Field(default=300.0, gt=0)


class DeletesSettings(Model):
    """The section `handlers.deletes` of the configuration."""

    targets: dict[SourceName, Target] = Field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    guard: GuardSettings = GuardSettings()
    duplicates: DuplicateSettings = DuplicateSettings()
    breaker: BreakerSettings = BreakerSettings()
    undo_key: Secret | None = Field(
        default=Secret(env="ROLLCALL_UNDO_KEY"), description="64 hexadecimal digits; null: no undo copies are kept"
    )
    undo_days: float = Field(default=30.0, gt=0, description="How long an undo copy is kept")
    settle: Duration = Field(
        default=0.25, description="How long the requests stage reads on before it vouches for a request"
    )
    catch_up: Duration = Field(
        default=5.0, description="A requests stage that lags by more does not vouch for anything until it has caught up"
    )
    backoff: Duration = Field(default=5.0, gt=0, description="First wait after a failure; it doubles up to 5 minutes")
    probe: Duration = Field(default=60.0, gt=0, description="How often a paused target's canary is tried")
    tick: Duration = Field(default=1.0, gt=0, le=10, description="How often timers are looked at while nothing happens")

    @model_validator(mode="after")
    def _complete(self) -> "DeletesSettings":
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        seen: set[str] = set()
        for number, route in enumerate(self.routes):
            if route.target not in self.targets:
                yield f"routes.{number}.target: there is no target {route.target!r}"
            if route.name in seen:
                yield f"routes.{number}: the route {route.name} is there twice"
            seen.add(route.name)

    def problems(self, sources: Collection[str], urls: Mapping[str, str] | None = None) -> list[str]:
        """Return what is wrong in view of the `sources` and their base URLs (by name), each with its path.

        A target with the address of a source must have its name: otherwise nobody would see that a deletion found
        there is our own.
        """
        lines = [
            f"deletes.routes.{number}.source: there is no source {route.source!r}"
            for number, route in enumerate(self.routes)
            if route.source not in sources
        ]
        for name, target in self.targets.items():
            lines += [
                f"deletes.targets.{name}: has the address of the source {source}; give the target that name too, so "
                "that our own deletions are recognised when they come back as events"
                for source, url in (urls or {}).items()
                if source != name and url.rstrip("/") == str(target.url).rstrip("/")
            ]
        return lines
