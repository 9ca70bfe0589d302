"""Carries out what persons decide, and says why where it cannot be: every decision is answered, and kept."""

import orjson

from handlers.deletes.decisions import Decision, answer
from handlers.deletes.intake import Work
from handlers.deletes.life import decided
from handlers.deletes.machine import Event, Refused, step
from handlers.deletes.model import Deletion, Request, digest, send_request
from worker.handling import Done, Outcome, Skip


def judge(work: Work, given: Decision) -> Outcome:
    """Carry out a decision, once, and answer it on the status topic."""
    life, key = work.life, b"x/" + given["id"].encode()
    before = orjson.loads(life.tx.get(key) or b"null")
    if before is not None:
        text = f"{before['text']} (it arrived again, and was not carried out a second time)"
        answer(life.tx, work.kit.topics.status, given, before["outcome"], text, life.now)
        return Skip("repeated")
    why = _carry_out(work, given)
    text = "it is carried out" if why is None else why
    life.tx.put(key, orjson.dumps({"outcome": "done" if why is None else "refused", "text": text}))
    answer(life.tx, work.kit.topics.status, given, "done" if why is None else "refused", text, life.now)
    return Done()


def _carry_out(work: Work, given: Decision) -> str | None:
    """Carry out a decision; return why not, where it cannot be."""
    request, target = given["request"], given["target"] or ""
    if given["what"] == "retry":
        return _go_on(work, target) if request is None else _ask_anew(work, given, request)
    if given["plan"] is not None:
        return work.guard.decide(given)
    deletion = work.life.book.deletion(request or "")
    if deletion is None:
        ended = work.life.book.ended(request or "")
        return "there is no such request" if ended is None else f"too late: it has ended ({ended.get('state')})"
    event = Event.APPROVE if given["what"] == "approve" else Event.REJECT
    why = _refusal(deletion, event)
    work.life.decide(deletion, decided(given, why))
    if why is None:
        _decide(work, deletion, event)
    return why


def _decide(work: Work, deletion: Deletion, event: Event) -> None:
    work.guard.leave(deletion)
    if event == Event.APPROVE:
        work.guard.release(deletion, Event.APPROVE)
    else:
        work.life.must(deletion, Event.REJECT, "a person has rejected it")
        work.life.end(deletion)
    work.dispatch.pump(deletion.request["target"])


def _refusal(deletion: Deletion, event: Event) -> str | None:
    """Return why a decision cannot be carried out on one deletion, None if it can."""
    following = step(deletion.state, event)
    if isinstance(following, Refused):
        return following.why
    if event == Event.APPROVE and deletion.request["customer"] is None:
        return "nobody knows the id of the customer at the target: it can only be rejected"
    return None


def _go_on(work: Work, target: str) -> str | None:
    """Let a target go on that is paused or left alone."""
    resumed = work.dispatch.health.resume_now(target)
    work.dispatch.pump(target)
    return None if resumed else "the target is not paused"


def _ask_anew(work: Work, given: Decision, request: str) -> str | None:
    """Request anew what is blocked or has failed: with an id, checks and a receipt of its own."""
    life, ended = work.life, work.life.book.ended(request)
    if ended is None or "asked" not in ended:
        return "only a request that is blocked or has failed can be retried"
    asked: Request = ended["asked"]
    evidence = {**asked["evidence"], "retried_by": given["who"], "command": given["id"]}
    anew: Request = {**asked, "id": digest(request, given["id"]), "retry_of": request, "evidence": evidence}
    anew["asked_at"], anew["not_before"], anew["held"] = life.now, life.now, None
    work.take(anew)
    deletion = life.book.deletion(anew["id"])
    if deletion is not None:
        life.decide(deletion, decided(given))
        send_request(life.tx, work.kit.topics.requests, anew)  # the topic is the table of what is open
    return None
