"""Chat and other services through apprise, to places that the operator declared by name in the settings.

Apprise's plugins open connections of their own, to whatever host their URL names, past the guard. So it refuses URLs
of users altogether: they choose a name, the operator alone says where it leads. It runs in threads with a limit of
time, so that a plugin that hangs blocks nothing but its own place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from finery_notifier.courier import Parcel
from finery_notifier.domain import Outcome

THREADS = 8


class DeclaredChannels:
    """Name → apprise URL. The URLs hold credentials: they are shown nowhere."""

    def __init__(self, urls: Mapping[str, str], *, timeout_s: float) -> None:
        self._urls, self._timeout_s = dict(urls), timeout_s
        self._pool = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="channel")

    async def send(self, parcel: Parcel) -> Outcome:
        """Try once; apprise says whether it went well and no more."""
        began = time.monotonic()
        url = self._urls.get(parcel.url.removeprefix("channel:"))
        if url is None:
            return Outcome(error="the operator declares this channel no more", permanent=True)
        foot = f"\n\nNo more of these: {parcel.unsubscribe_url}" if parcel.unsubscribe_url else ""
        body = parcel.body.decode() + foot
        try:
            async with asyncio.timeout(self._timeout_s):
                loop = asyncio.get_running_loop()
                done = await loop.run_in_executor(self._pool, _notify, url, parcel.subject, body)
        except TimeoutError:
            return Outcome(error=f"the channel took longer than {self._timeout_s:g} s", duration_s=self._timeout_s)
        outcome = Outcome(status=200) if done else Outcome(error="the channel's service did not take it")
        return replace(outcome, duration_s=time.monotonic() - began)

    async def close(self) -> None:
        """Let the threads go; a call under way is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def is_channel_url(url: str) -> bool:
    """Whether apprise knows what to do with it."""
    import apprise

    return bool(apprise.Apprise().add(url))


def _notify(url: str, title: str, body: str) -> bool:
    import apprise  # it takes a while to load, and most installations declare no channel

    target = apprise.Apprise()
    return target.add(url) and bool(target.notify(body=body, title=title, body_format=apprise.NotifyFormat.TEXT))
