"""Finding nodes in the local network, and being found (trio shell).

zeroconf is asyncio inside, so its blocking interface is used: it runs a loop in a thread of its
own, every call into it goes through a worker thread, and what it finds comes back by the trio
token.  It does not notice by itself when an interface comes or goes (a laptop that changes its
Wi-Fi would go deaf), so the interfaces are polled.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

import structlog
import trio
import zeroconf

from meshd import limits
from meshd.errors import MeshdError
from meshd.membership.sightings import SERVICE, Announcement, Sighting, read_sighting

log = structlog.get_logger()

POLL_S: Final = 5.0
"""How often the interfaces are looked at.  A change counts when it is there twice in a row: an
address that is being assigned comes and goes."""
RETRY_S: Final = 30.0
"""After mDNS could not be started: there may be no network yet."""
RESOLVE_MS: Final = 3000
"""How long to wait for the records of a node whose name was seen."""

_Interfaces = list[str] | None
T = TypeVar("T")


class MdnsFailed(MeshdError):
    """Multicast does not work here: no interface, or not allowed."""


class Mdns:
    """Announces this node and keeps a list of those in sight.

    Without an announcement it only looks.  `on_sighting` is called in trio, for each node that
    appears or changes.  `interfaces` restricts it to these addresses (tests use loopback).
    """

    def __init__(
        self,
        announcement: Announcement | None,
        interface_addresses: Callable[[], list[str]],
        *,
        on_sighting: Callable[[Sighting], None] = lambda sighting: None,
        interfaces: _Interfaces = None,
    ) -> None:
        self._announcement = announcement
        self._interface_addresses = interface_addresses
        self._on_sighting = on_sighting
        self._interfaces = interfaces
        self._found: dict[str, Sighting] = {}
        self._running = False
        self._is_stale = False
        """What is announced is not what should be."""
        self.failure: str | None = None
        """Why nobody can be found or find this node now, as a sentence; None: all is well."""

    def announce(self, announcement: Announcement) -> None:
        """Announce this instead, soon."""
        self._announcement = announcement
        self._is_stale = True

    def found(self) -> list[Sighting]:
        """Who is in sight now, this node left out, by name and id."""
        return sorted(self._found.values(), key=lambda sighting: (sighting.name, sighting.node))

    async def run(self) -> None:
        """Announce and look around until cancelled.  Trouble with the network is waited out."""
        self._running = True
        try:
            while True:
                try:
                    await self._session()
                except MdnsFailed as error:
                    if self.failure is None:
                        log.warning("mdns does not work", why=str(error))
                    self.failure = str(error)
                await trio.sleep(RETRY_S)
        finally:
            self._running = False
            self._found.clear()

    async def browse(self, timeout_s: float) -> list[Sighting]:
        """Look around for that long; who was in sight at the end.

        Works with and without `run`.  Raises MdnsFailed if it cannot look at all.
        """
        if self._running:
            await trio.sleep(timeout_s)
            return self.found()
        responder = await _in_thread(self._open)
        try:
            browser = await self._look_around(responder)
            await trio.sleep(timeout_s)
            found = self.found()
            await _in_thread(browser.cancel)
        finally:
            await _close(responder)
            self._found.clear()
        return found

    # --- one session: from opening the sockets to losing them

    async def _session(self) -> None:
        responder = await _in_thread(self._open)
        self.failure = None
        try:
            hosts = self._interface_addresses()
            await self._announce(responder, hosts, first=True)
            await self._look_around(responder)
            await self._follow_interfaces(responder, hosts)
        finally:
            await _close(responder)

    def _open(self) -> zeroconf.Zeroconf:
        if self._interfaces is not None:
            return zeroconf.Zeroconf(interfaces=self._interfaces, use_asyncio=False)
        return zeroconf.Zeroconf(use_asyncio=False)

    async def _announce(
        self, responder: zeroconf.Zeroconf, hosts: list[str], *, first: bool
    ) -> None:
        announcement = self._announcement
        if announcement is None or not hosts:
            return
        info = zeroconf.ServiceInfo(
            SERVICE,
            announcement.instance,
            port=announcement.port,
            properties=announcement.text(),
            server=announcement.host,
            parsed_addresses=hosts,
        )

        def register() -> None:
            # "Cooperating" skips the probing for the name, which our own former record, still in
            # somebody's cache, would lose us for the length of its TTL.
            responder.register_service(info, cooperating_responders=True)

        await _in_thread(register if first else lambda: responder.update_service(info))

    async def _look_around(self, responder: zeroconf.Zeroconf) -> zeroconf.ServiceBrowser:
        token = trio.lowlevel.current_trio_token()

        def changed(
            zeroconf: zeroconf.Zeroconf,
            service_type: str,
            name: str,
            state_change: zeroconf.ServiceStateChange,
        ) -> None:
            """In the browser's own thread, which may wait for the other records."""
            sighting = None
            if state_change.name != "Removed":
                sighting = _resolve(zeroconf, service_type, name)
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._saw, name, sighting)

        return await _in_thread(
            lambda: zeroconf.ServiceBrowser(responder, SERVICE, handlers=[changed])
        )

    def _saw(self, instance: str, sighting: Sighting | None) -> None:
        """In trio: a node appeared or changed (or, without a sighting, went)."""
        if sighting is None:
            self._found.pop(instance, None)
            return
        if self._announcement is not None and sighting.node == self._announcement.node:
            return
        if instance not in self._found and len(self._found) >= limits.MDNS_SIGHTINGS:
            return
        if self._found.get(instance) != sighting:
            self._found[instance] = sighting
            self._on_sighting(sighting)

    async def _follow_interfaces(self, responder: zeroconf.Zeroconf, hosts: list[str]) -> None:
        announced = bool(hosts)
        before = hosts
        while True:
            await trio.sleep(POLL_S)
            now = self._interface_addresses()
            settled, before = now == before, now
            if not settled or (now == hosts and not self._is_stale):
                continue
            if now != hosts:
                log.info("interfaces changed", addresses=now)
                await _in_thread(responder.update_interfaces)
            self._is_stale = False
            await self._announce(responder, now, first=not announced)
            announced = announced or bool(now)
            hosts = now


def _resolve(responder: zeroconf.Zeroconf, service_type: str, name: str) -> Sighting | None:
    info = responder.get_service_info(service_type, name, RESOLVE_MS)
    if info is None:
        return None
    return read_sighting(info.properties, info.parsed_addresses(), info.port)


async def _in_thread(call: Callable[[], T]) -> T:
    """Run a blocking call of zeroconf's.  Raises MdnsFailed for what a network can do to it."""
    try:
        return await trio.to_thread.run_sync(call)
    except (OSError, zeroconf.Error, RuntimeError) as error:
        raise MdnsFailed(f"mDNS does not work here: {error}.") from error


async def _close(responder: zeroconf.Zeroconf) -> None:
    """Say goodbye (others forget us at once) and close, also when cancelled."""
    with trio.move_on_after(5.0, shield=True):
        with suppress(MdnsFailed):
            await _in_thread(responder.close)


__all__ = ["Announcement", "Mdns", "MdnsFailed", "Sighting"]
