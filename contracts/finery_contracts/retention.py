"""How long things are kept: policy, not code. One record, whose shipped values are ``retention.yaml``.

It reads no file (the kit's settings do) and deletes nothing: the owner of each thing does, by these numbers. Facts that
the ledger is verified from have no age here, for they are never dropped.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from finery_contracts.model import Request


class Retention(Request):
    """Days, unless the name says otherwise; ``None`` keeps for ever."""

    logs_days: int = Field(default=30, ge=1, description="lines and curves of tasks that have no *keep logs*")
    deployment_events_days: int = Field(default=30, ge=1, description="what a deployment's page shows of its past")
    temporary_model_days: int = Field(default=15, ge=1, description="a tuned model that nobody published")
    temporary_model_notice_days: tuple[int, ...] = Field(default=(3, 1), description="notices before it goes")
    restore_hours: int = Field(default=24, ge=0, description="deleted through OpenAI's surface, not yet removed")
    events_days: int | None = Field(default=None, ge=31, description="facts on the bus; in SQL they stay for ever")
    inbox_days: int = Field(default=60, ge=31, description="after that, what was heard is kept as one line a noun")
    dead_days: int = Field(default=30, ge=1, description="messages that were given up")
    usage_journal_days: int = Field(
        default=31, ge=1, description="what a gateway put on the bus, and longer if unheard"
    )
    delivery_log_days: int = Field(default=30, ge=1, description="requests and answers of webhooks")
    uploads_days: int = Field(
        default=7, ge=1, description="an upload that nobody finished or used, since its last byte"
    )
    idempotency_hours: int = Field(default=24, ge=1, description="how long an Idempotency-Key is remembered")

    @model_validator(mode="after")
    def _in_order(self) -> Retention:
        late = [days for days in self.temporary_model_notice_days if not 0 < days < self.temporary_model_days]
        if late:
            raise ValueError(f"temporary_model_notice_days: {late} do not lie before temporary_model_days")
        # A message may be said again that long after it was first said: a dead letter, usage in a gateway's journal.
        for name in ("dead_days", "usage_journal_days"):
            if self.inbox_days <= (days := getattr(self, name)):
                raise ValueError(f"inbox_days: {self.inbox_days} must be more than {name} ({days})")
        return self
