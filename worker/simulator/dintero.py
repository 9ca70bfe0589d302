"""dintero's customers: a feed by time of change with tombstones, a listing by paging token, OAuth client credentials.

The vendor's document leaves open whether `since_datetime` includes its bound and in which order a page comes: both
are options here. `docs/simulators.md` lists what is not imitated.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode, urlsafe_b64encode
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import unquote

import orjson

from worker.simulator import qs
from worker.simulator.answers import Answer, Ask, Layout, as_json
from worker.simulator.customers import Fields
from worker.simulator.data import Person, uuid
from worker.simulator.dintero_filters import Filter, RefusedError, read_limit
from worker.simulator.server import Simulator
from worker.simulator.store import Id, Row, View, by_order
from worker.simulator.where import iso, milliseconds

ACCOUNT = re.compile(r"[PT]\d{8}")
DAY = 86_400
CONSENTED = "2025-01-01T00:00:00Z"
CODES = {400: "BAD_REQUEST", 401: "UNAUTHORIZED", 403: "FORBIDDEN", 404: "NOT_FOUND", 409: "CONFLICT", 429: "TOO_MANY"}
KEPT = ("id", "customer_id", "created_at", "created_by")
"""What a tombstone keeps."""
DELETED = "include_deleted"
OWN = {"id", "created_at", "created_by", "updated_at", "deleted_at", "deleted_by", "paging_token"}


class DuplicateEmailError(ValueError):
    """Another user of the same type has the e-mail address, case aside."""


class Dintero(Simulator):
    """A simulated Dintero: the token request, and the users under `/v1/accounts/{aid}/customers/users`."""

    kind = "dintero"
    layout = Layout(None, "id")
    settings = (*Simulator.settings, "client_secret", "token_seconds", "since", "shuffled")

    def __init__(
        self,
        *,
        account: str = "P12345678",
        client_id: str = "dintero-test-client",
        client_secret: str = "dintero-test-secret",  # ruff: ignore[hardcoded-password-default]  # of a simulator
        token_seconds: float = DAY,
        since: Literal["inclusive", "exclusive"] = "inclusive",
        shuffled: bool = False,
        tombstone_tokens: bool = True,
        **common: Any,
    ) -> None:
        """Make a stopped Dintero; `common` are `Simulator`'s arguments.

        `account` is the aid; a token lasts `token_seconds`. `since` says whether `since_datetime` includes its bound.
        With `shuffled` a page of changes comes in any order. Without `tombstone_tokens` a tombstone has no paging
        token.
        """
        if ACCOUNT.fullmatch(account) is None:
            raise ValueError(f"an account id is P or T and eight digits, not {account!r}")
        self.account = account
        self.client_id = client_id
        self.client_secret = client_secret
        self.token_seconds = token_seconds
        self.since = since
        self.shuffled = shuffled
        self.tombstone_tokens = tombstone_tokens
        self.tokens: dict[str, float] = {}
        """The tokens given out, with the second at which each expires."""
        self._emails: dict[tuple[str, str] | None, Id] = {}
        super().__init__(**common)

    # The customers

    def shape(self, person: Person) -> dict[str, Any]:
        """Render a person in the document's fields."""
        company = {"name": person.company, "organization_number": f"9{person.number:08d}"} if person.company else None
        return {
            "type": "company" if company else "customer",
            "customer_id": f"D-{person.number:07d}",
            "metadata": {"dob_year": person.birth.year},
            "first_name": person.given,
            "last_name": person.family,
            "email": person.email,
            "phone_number": person.phone,
            "attributes": {"segment": self.random.choice("ABC")},
            "status": "active",
            "favorite_store": f"store-{self.random.randrange(9)}",
            "enrolled_by": {"type": "other", "value": self.random.choice(("web", "store"))},
            "marketing_consent": {
                "email": {"consent": True, "updated_at": CONSENTED},
                "sms": {"consent": self.random.choice((True, False)), "updated_at": CONSENTED},
            },
            "company": company,
            "gender": self.random.choice(("male", "female")),
            "date_of_birth": person.birth.isoformat(),
            "tags": [],
        }

    def new_id(self) -> Id:
        """Draw a UUID."""
        return uuid(self.random)

    def document(self, key: Id, fields: Mapping[str, Any], created: int, updated: int) -> dict[str, Any]:
        """Render a user; members that hold nothing are left out."""
        shown = {name: value for name, value in fields.items() if value is not None and name not in OWN}
        shown.setdefault("type", "customer")
        shown.setdefault("customer_id", f"auto-{key}")
        self._emails[_email_key(shown)] = key
        stamps = {"created_at": iso(created), "updated_at": iso(updated)}
        return {"id": key, **shown, **stamps, "created_by": self.client_id}

    def change(self, row: Row) -> dict[str, Any]:  # ruff: ignore[unused-method-argument]  # any user changes alike
        """Change the favorite store, and sometimes the customer id."""
        changed: dict[str, Any] = {"favorite_store": f"store-{self.random.randrange(10**6)}"}
        if self.random.random() < 0.1:  # ruff: ignore[magic-value-comparison]  # a share
            changed["customer_id"] = f"D-moved-{self.random.randrange(10**9)}"
        return changed

    def tombstone(self, row: Row, stamp: int) -> Row:
        """Leave ids and creation, and add the deletion."""
        document = row.document()
        left = {name: document[name] for name in KEPT} | {"deleted_at": iso(stamp), "deleted_by": self.client_id}
        body = orjson.dumps(left)[:-1]
        return row._replace(updated=stamp, version=row.version + 1, body=body, tombstone=True)

    def check(self, key: Id | None, document: Fields) -> None:
        """Refuse an e-mail address that another user of the same type has, case aside. Raises DuplicateEmailError."""
        wanted = _email_key(document)
        holder = self.store.get(self._emails.get(wanted, "")) if wanted else None
        if holder is not None and holder.id != key and not holder.tombstone and _email_key(holder.document()) == wanted:
            raise DuplicateEmailError("another user of this type has this e-mail address")

    # The API

    def error(self, status: int, message: str | None = None) -> bytes:
        """Render an error."""
        code = CODES.get(status, "INTERNAL_ERROR")
        return orjson.dumps({
            "error": {"message": message or code.replace("_", " ").capitalize(), "code": code, "errors": []}
        })

    async def answer(self, ask: Ask) -> Answer:
        """Route a request."""
        found = re.fullmatch(r"/v1/accounts/([^/]+)/(auth/token|customers/users)(?:/([^/]+))?", ask.path)
        if found is None:
            return self._failed(404)
        account, resource, key = found.groups()
        try:
            if resource == "auth/token":
                return self._token(ask, account)
            return self._allowed(ask, account, unquote(key or ""))
        except RefusedError as error:
            return self._failed(400, str(error))
        except DuplicateEmailError as error:
            return self._failed(409, str(error))

    def _allowed(self, ask: Ask, account: str, key: str) -> Answer:
        if ACCOUNT.fullmatch(account) is None:
            raise RefusedError("aid must match [PT]\\d{8}")
        refused = self._unauthorized(ask) or (403 if account != self.account else None)
        return self._failed(refused) if refused is not None else self._users(ask, key)

    def _failed(self, status: int, message: str | None = None) -> Answer:
        return Answer(status, self.error(status, message))

    def _token(self, ask: Ask, account: str) -> Answer:
        if ask.method != "POST":
            return self._failed(404)
        client = (account, *_basic(ask.headers.get("Authorization", "")))
        if client != (self.account, self.client_id, self.client_secret):
            return self._failed(401)
        body = _parsed(ask.body)
        if body.get("grant_type") != "client_credentials":
            return self._failed(400, "grant_type must be client_credentials")
        if not str(body.get("audience", "")).endswith(f"/v1/accounts/{account}"):
            return self._failed(400, "audience must be the account")
        parts = [orjson.dumps({"alg": "none", "typ": "JWT"}), orjson.dumps({"jti": uuid(self.luck)}), b"synthetic"]
        token = ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
        self.tokens[token] = self.now() + self.token_seconds
        return as_json({"access_token": token, "token_type": "Bearer", "expires_in": int(self.token_seconds)})

    def _unauthorized(self, ask: Ask) -> int | None:
        scheme, _, token = ask.headers.get("Authorization", "").partition(" ")
        if ask.fault("token_expired"):
            self.tokens.pop(token, None)
        return None if scheme == "Bearer" and self.tokens.get(token, 0.0) > self.now() else 401

    def _users(self, ask: Ask, key: str) -> Answer:
        match ask.method, bool(key):
            case "GET", False:
                return self._list(self.view(ask), qs.parse(ask.query))
            case "POST", False:
                created = self.create(_parsed(ask.body))
                return as_json(self._served(self.store.rows[created]))
        row = self.view(ask).get(key)
        if row is None or row.tombstone:
            return self._failed(404)
        if ask.method == "DELETE":
            self.delete(row.id)
            return Answer(204)
        return as_json(self._served(row)) if ask.method == "GET" else self._failed(404)

    def _list(self, view: View, asked: dict[str, Any]) -> Answer:
        limit = read_limit(asked.get("limit"))
        test = Filter.read(asked)
        since, behind = asked.get("since_datetime"), asked.get("starting_after")
        if since is not None and behind is not None:
            raise RefusedError("since_datetime cannot be combined with starting_after")
        rows, start = (view.changed, self._since(view, since)) if since else (view.ordered, _behind(view, behind))
        page = _first(rows, start, test, limit)
        if self.shuffled and since:
            self.luck.shuffle(page)
        answer = as_json([self._served(row) for row in _with_linked(view, page)])
        if _counted(asked):
            answer.headers["total-count"] = str(sum(map(test, rows[start:] if since else rows)))
        return answer

    def _since(self, view: View, since: Any) -> int:
        stamp = milliseconds(since) if isinstance(since, str) else None
        if stamp is None:
            raise RefusedError("since_datetime must be an ISO timestamp")
        cut = bisect_left if self.since == "inclusive" else bisect_right
        return cut(view.changed, stamp, key=lambda row: row.updated)

    def _served(self, row: Row) -> dict[str, Any]:
        token = {} if row.tombstone and not self.tombstone_tokens else {"paging_token": _paging_token(row)}
        return {**row.document(), **token}


def _email_key(user: Fields) -> tuple[str, str] | None:
    email = user.get("email")
    return (str(user.get("type", "customer")), str(email).casefold()) if email else None


def _first(rows: list[Row], start: int, test: Filter, limit: int) -> list[Row]:
    found: list[Row] = []
    for index in range(start, len(rows)):
        if test(rows[index]):
            found.append(rows[index])
            if len(found) == limit:
                break
    return found


def _with_linked(view: View, page: list[Row]) -> list[Row]:
    """Put the users that a contact links to before it: an answer with contacts includes them."""
    seen = {row.id for row in page}
    rows: list[Row] = []
    for row in page:
        linked = row.document().get("contact_for", []) if not row.tombstone else []
        for key in (link.get("id") if isinstance(link, dict) else link for link in linked):
            other = view.get(str(key))
            if other is not None and not other.tombstone and other.id not in seen:
                seen.add(other.id)
                rows.append(other)
        rows.append(row)
    return rows


def _paging_token(row: Row) -> str:
    return b64encode(f"u{row.order}".encode()).decode().rstrip("=")


def _behind(view: View, token: Any) -> int:
    """Find where a listing goes on: behind a paging token, or behind a user's id, as the document says too."""
    if token is None:
        return 0
    row = view.get(token) if isinstance(token, str) else None
    if row is not None:
        return bisect_right(view.ordered, row.order, key=by_order)
    try:
        order = int(b64decode(str(token) + "=" * (-len(str(token)) % 4)).decode().removeprefix("u"))
    except ValueError:
        raise RefusedError("starting_after is no paging token") from None
    return bisect_right(view.ordered, order, key=by_order)


def _counted(asked: dict[str, Any]) -> bool:
    """Whether the total-count header is asked for: the document does not name the parameter, so several are taken."""
    wanted = [str(value) for name, value in asked.items() if name.startswith(("include", "total")) and name != DELETED]
    return any(value in {"true", "total-count", "total_count"} for value in wanted)


def _basic(header: str) -> tuple[str, str]:
    scheme, _, code = header.partition(" ")
    try:
        user, _, password = b64decode(code, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return (unquote(user), password) if scheme == "Basic" else ("", "")


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
