"""Which models are loaded: all decisions, made in one place by one process.

A model is loaded when it is wanted and there is room: for one more among `max_concurrent_models`, and for its memory.
Models that are wanted and not loaded wait in a queue. Room is made by unloading idle models, the least recently used
first. A busy model is never unloaded under a request. But when the first in the queue has waited for `switch_after`,
the busy model that has been loaded for longest takes no further requests, and is unloaded when those it has are
answered: so none is kept out for ever by another that is always busy.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from gatehook_plugins.vendor_gguf.estimate import size_text
from gatehook_plugins.vendor_gguf.failures import EngineFailed, Failures, Refusal
from gatehook_plugins.vendor_gguf.messages import Rules, Spec, State
from gatehook_plugins.vendor_gguf.resident import Resident, Starter

__all__ = ["Manager", "Measure"]

log = logging.getLogger("gatehook.vendor_gguf")

Measure = Callable[[Spec], Awaitable[int | None]]
"""Gives the bytes of memory that a model needs; None if they cannot be found out."""

_SHUTTING_DOWN: Final = ("service_unavailable", "the gateway is shutting down")
_TICK: Final = 0.01
"""Seconds that a timer is set later, so that the time it waits for has surely passed."""


class _Want:
    """A model that is wanted and not loaded, and the requests that wait for it."""

    def __init__(self, spec: Spec, since: float) -> None:
        self.spec = spec
        self.since = since
        self.waiters: list[asyncio.Future[Resident]] = []


class Manager:
    """All loaded models of one gateway. It runs on one event loop, and no decision is interrupted by an await."""

    def __init__(self, start: Starter, measure: Measure) -> None:
        """`start` makes the engine of a model, `measure` finds out the memory that it needs."""
        self._start = start
        self._measure = measure
        self._rules = Rules()
        self._residents: dict[str, Resident] = {}
        self._wants: dict[str, _Want] = {}
        """The queue, by name: the first one gets the next room."""
        self._chosen: dict[str, Spec] = {}
        """The variant of a model that was chosen by `load`, by name: until another is chosen, or it is unloaded."""
        self._failures = Failures()
        self._needs: dict[str, int] = {}
        """Bytes of memory that models need, by their content, as far as they were measured."""
        self._measuring = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pins: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    # --- what workers ask for

    def adopt(self, rules: Rules) -> None:
        """Go by these rules, unless it has newer ones already; and load what is pinned."""
        if rules.stamp < self._rules.stamp or rules == self._rules or self._closed:
            return
        self._rules = rules
        for pin in self._pins.values():
            pin.cancel()
        pinned = {spec.name: spec for spec in rules.pinned}  # one may be named twice
        self._pins = {name: self._spawn(self._keep(spec)) for name, spec in pinned.items()}
        for resident in self._residents.values():
            resident.pinned = resident.spec.name in self._pins
            self._watch_idle(resident)
        self._pump()

    async def acquire(self, spec: Spec) -> Resident:
        """A lease of the model, to be given back by `release`; loads it first, if it is not loaded.

        Raises:
            Refusal: it cannot be loaded, or there was no room for too long.
        """
        resident = self._residents.get(spec.name)
        if resident is not None:
            self._replace_if_outdated(resident, spec)
            if resident.ready:
                return resident.take()
        if not self._rules.auto_load and (resident is None or resident.leaving) and spec.name not in self._wants:
            raise Refusal("model_not_loaded", f"the model {spec.name!r} is not loaded, and auto_load is off; load it")
        return await self._awaited(spec, self._rules.queue_timeout)

    def release(self, resident: Resident) -> None:
        """Give a lease back."""
        resident.give_back()
        self._settle(resident)
        self._pump()

    def doubt(self, resident: Resident) -> None:
        """Lease a model no more, as its engine cannot be reached: it has ended, or it ends with its last lease."""
        if not resident.leaving:
            log.warning("the engine of %s cannot be reached", resident.spec.name)
            resident.leaving = True

    async def load(self, spec: Spec, *, exact: bool = True) -> None:
        """Load a model; returns when it is loaded. If `exact`, it replaces another quantization that is loaded.

        Raises:
            Refusal: as `acquire`.
        """
        self._failures.forget(spec.name)
        self._refuse_damaged(spec)
        if exact:
            self._chosen[spec.name] = spec
        resident = self._residents.get(spec.name)
        if resident is not None and exact and resident.spec.content != spec.content:
            self._leave(resident)
        elif resident is not None and resident.ready:
            return
        if exact and (want := self._wants.get(spec.name)) is not None:
            want.spec = spec  # the latest word
        try:
            self.release(await self._awaited(spec, self._rules.queue_timeout))
        except Refusal:
            self._unchoose(spec)
            raise

    async def unload(self, name: str) -> None:
        """Unload a model when its requests are answered; returns when its process has ended. It is no longer pinned."""
        self._failures.forget(name)
        self._chosen.pop(name, None)
        if (pin := self._pins.pop(name, None)) is not None:
            pin.cancel()
        if (resident := self._residents.get(name)) is not None:
            resident.pinned = False
            self._leave(resident)
            await resident.ended.wait()

    def states(self) -> Sequence[State]:
        """The models that are loaded, being loaded or wanted, or that failed last time."""
        found = {
            one.spec.name: State(one.spec.name, "failed", one.spec, error=one.reason) for one in self._failures.all()
        }
        found |= {name: State(name, "loading", want.spec, progress=0.0) for name, want in self._wants.items()}
        return tuple((found | {name: one.state() for name, one in self._residents.items()}).values())

    @property
    def memory(self) -> int:
        """Bytes that are reserved for what is loaded or being loaded."""
        return _memory(self._residents.values())

    @property
    def failures(self) -> Mapping[str, int]:
        """How often each model has failed, by name."""
        return self._failures.counts

    async def close(self) -> None:
        """End all engines, whatever they are doing."""
        self._closed = True
        for want in self._wants.values():
            _refuse(want.waiters, Refusal(*_SHUTTING_DOWN))
        self._wants.clear()
        for pin in self._pins.values():
            pin.cancel()
        for resident in list(self._residents.values()):
            resident.leaving = True
            resident.engine.stop()
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    # --- waiting for a model

    async def _awaited(self, spec: Spec, timeout: float | None) -> Resident:
        """A lease of the model once it is loaded.

        Raises:
            Refusal: see `acquire`.
        """
        if self._closed:
            raise Refusal(*_SHUTTING_DOWN)
        loop = asyncio.get_running_loop()
        spec = self._preferred(spec)
        self._failures.check(spec, loop.time())
        self._refuse_damaged(spec)
        spec = await self._looked_at(spec)
        self._refuse_hopeless(spec)
        resident = self._residents.get(spec.name)
        if resident is not None and resident.ready:
            return resident.take()
        waiter: asyncio.Future[Resident] = loop.create_future()
        if resident is not None and not resident.leaving:
            resident.waiters.append(waiter)
        else:
            self._want(spec).waiters.append(waiter)
            if timeout is not None:
                loop.call_later(timeout, self._give_up, spec.name, waiter)
            self._pump()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release(waiter.result())  # it came at this very moment
            raise
        finally:
            self._drop_unwanted(spec.name)

    def _preferred(self, spec: Spec) -> Spec:
        """The variant of this model that was chosen by `load`, unless the settings have changed since."""
        chosen = self._chosen.get(spec.name, spec)
        if chosen.origin != spec.origin and spec.stamp > chosen.stamp:
            del self._chosen[spec.name]
            return spec
        return chosen

    def _unchoose(self, spec: Spec) -> None:
        if (chosen := self._chosen.get(spec.name)) is not None and chosen.content == spec.content:
            del self._chosen[spec.name]

    def _want(self, spec: Spec) -> _Want:
        want = self._wants.get(spec.name)
        if want is None:
            loop = asyncio.get_running_loop()
            want = self._wants[spec.name] = _Want(spec, loop.time())
            loop.call_later(self._rules.switch_after + _TICK, self._pump)
        elif spec.stamp > want.spec.stamp:
            want.spec = spec
        return want

    def _drop_unwanted(self, name: str) -> None:
        """Remove a model from the queue if nobody waits for it any more."""
        want, resident = self._wants.get(name), self._residents.get(name)
        if want is not None and all(waiter.done() for waiter in want.waiters):
            del self._wants[name]
            self._pump()
        if resident is not None and resident.leaving:
            self._settle(resident)

    def _give_up(self, name: str, waiter: "asyncio.Future[Resident]") -> None:
        want = self._wants.get(name)
        if want is None or waiter not in want.waiters or waiter.done():
            return  # it is being loaded, which has a limit of its own
        others = ", ".join(sorted(self._residents)) or "none"
        waiter.set_exception(
            Refusal(
                "no_free_slot",
                f"there was no room for the model {name!r} within {self._rules.queue_timeout:g} s (queue_timeout); "
                f"busy or pinned: {others}",
                retry_after=max(1.0, self._rules.switch_after),
            )
        )

    async def _looked_at(self, spec: Spec) -> Spec:
        """The model with the memory that it really needs, measured only if its estimate does not fit beside others."""
        content = spec.content
        if content not in self._needs and self.memory + spec.need > self._rules.memory_limit:
            async with self._measuring:  # each measurement is a process: one for all waiters, and one at a time
                if content not in self._needs:
                    measured = await self._measure(spec)
                    self._needs[content] = spec.need if measured is None else measured
        return msgspec.structs.replace(spec, need=self._needs.get(content, spec.need))

    def _refuse_damaged(self, spec: Spec) -> None:
        """Refuse a file that is damaged, before anything makes room for it; it counts as a failure to load."""
        if spec.fault:
            log.error("%s %s", spec.name, spec.fault)
            now = asyncio.get_running_loop().time()
            raise self._failures.note(spec, EngineFailed(spec.fault), now).refusal(now)

    def _refuse_hopeless(self, spec: Spec) -> None:
        """Refuse at once what cannot be loaded, however long the request waits."""
        rules = self._rules
        pinned = [one for one in self._residents.values() if one.pinned and one.spec.name != spec.name]
        if len(pinned) >= rules.max_concurrent_models:
            raise Refusal(
                "no_free_slot",
                f"there is no room for the model {spec.name!r}: all {rules.max_concurrent_models} that may be loaded "
                "(max_concurrent_models) are pinned",
            )
        if spec.need + _memory(pinned) > rules.memory_limit:
            taken = f", of which pinned models take {size_text(_memory(pinned))}" if pinned else ""
            raise Refusal(
                "model_too_large",
                f"the model {spec.name!r} needs {size_text(spec.need)} of memory, and memory_limit is "
                f"{size_text(rules.memory_limit)}{taken}; a smaller quantization or context, or fewer slots, need less",
            )

    # --- making room

    def _pump(self) -> None:
        """Load from the queue what there is room for, in order. Called whenever something has changed."""
        for name, want in list(self._wants.items()):
            if self._closed:
                return
            if name in self._residents:
                continue  # on its way out; when it is gone, this is looked at again
            if not self._make_room(want):
                return
            del self._wants[name]
            self._begin(want)

    def _make_room(self, want: _Want) -> bool:
        """Whether there is room for it now. If not, models are unloaded to make room, if that is possible."""
        staying = [one for one in self._residents.values() if not one.leaving]
        idle = sorted((one for one in staying if one.evictable), key=lambda one: one.last_used)
        going: list[Resident] = []
        while not self._fits(staying, want.spec):
            chosen = idle.pop(0) if idle else self._longest_loaded(staying, want)
            if chosen is None:
                return False
            going.append(chosen)
            staying.remove(chosen)
        for resident in going:
            log.info("%s makes room for %s", resident.spec.name, want.spec.name)
            self._leave(resident)
        return self._fits(self._residents.values(), want.spec)

    def _longest_loaded(self, staying: Iterable[Resident], want: _Want) -> Resident | None:
        """The busy model that has to go, if the want has waited long enough for that."""
        if asyncio.get_running_loop().time() < want.since + self._rules.switch_after:
            return None
        busy = [one for one in staying if one.ready and not one.pinned]
        return min(busy, key=lambda one: one.ready_at or 0.0, default=None)

    def _fits(self, residents: Iterable[Resident], spec: Spec) -> bool:
        beside = list(residents)
        return (
            len(beside) < self._rules.max_concurrent_models and _memory(beside) + spec.need <= self._rules.memory_limit
        )

    def _replace_if_outdated(self, resident: Resident, spec: Spec) -> None:
        """Unload a model that newer settings describe otherwise, or whose file has been replaced."""
        loaded = resident.spec
        resettled = spec.origin != loaded.origin and spec.stamp > loaded.stamp
        rewritten = spec.options.path == loaded.options.path and spec.modified > loaded.modified
        if (resettled or rewritten) and not resident.leaving:
            log.info("%s is loaded anew: its settings or its file have changed", spec.name)
            self._leave(resident)

    # --- processes

    def _begin(self, want: _Want) -> None:
        resident = Resident(want.spec, self._start(want.spec), want.waiters)
        resident.pinned = want.spec.name in self._pins
        self._residents[want.spec.name] = resident
        self._spawn(self._live(resident))

    async def _live(self, resident: Resident) -> None:
        """The life of one process, from its beginning to its end."""
        name = resident.spec.name
        try:
            await resident.load(self._rules.load_timeout)
            log.info("%s is loaded", name)
            self._settle(resident)
            self._pump()
            await resident.engine.wait()
            log.info("%s is unloaded", name)
        except EngineFailed as failed:
            self._failed(resident, failed)
        except Exception as error:
            log.exception("%s could not be run", name)
            resident.engine.stop()
            self._failed(resident, EngineFailed(f"could not be run: {error}"))
        finally:
            del self._residents[name]
            resident.ended.set()
            self._pump()

    def _failed(self, resident: Resident, failed: EngineFailed) -> None:
        if self._closed:
            _refuse(resident.waiters, Refusal(*_SHUTTING_DOWN))
        elif failed.served is not None or not resident.leaving or resident.wanted:  # else: stopped while loading
            now = asyncio.get_running_loop().time()
            failure = self._failures.note(resident.spec, failed, now)
            if failed.served is None:  # its file may be gone; the usual one may do
                self._unchoose(resident.spec)
            log.error("%s %s", resident.spec.name, failed.reason)
            _refuse(resident.waiters, failure.refusal(now))

    async def _keep(self, spec: Spec) -> None:
        """Keep a pinned model loaded: load it whenever it is not."""
        while True:
            try:
                resident = self._residents.get(spec.name)
                if resident is not None:
                    self._replace_if_outdated(resident, spec)
                if resident is None or not resident.ready:
                    resident = await self._awaited(spec, None)
                    self.release(resident)
                await resident.ended.wait()
                wait = 0.0
            except Refusal as refusal:
                log.warning("the pinned model %s is not loaded: %s", spec.name, refusal.message)
                wait = refusal.retry_after or 60.0
            await asyncio.sleep(wait)

    def _leave(self, resident: Resident) -> None:
        """Have it take no further requests, and end when those it has are answered."""
        resident.leaving = True
        self._settle(resident)

    def _settle(self, resident: Resident) -> None:
        """After a change: stop a leaving model that has no requests any more, or watch how long another is idle."""
        if resident.leaving:
            if not resident.leases and not resident.wanted:
                resident.engine.stop()
        else:
            self._watch_idle(resident)

    def _watch_idle(self, resident: Resident) -> None:
        """Unload a model after `idle_ttl` without a request; but not if requests may not load it again (auto_load)."""
        ttl = self._rules.idle_ttl if self._rules.auto_load else 0.0
        if ttl and resident.evictable and not resident.watched:
            resident.watched = True
            loop = asyncio.get_running_loop()
            loop.call_at(resident.last_used + ttl + _TICK, self._look_at_idle, resident)

    def _look_at_idle(self, resident: Resident) -> None:
        resident.watched = False
        if not resident.evictable:
            return  # it is watched again when it is given back
        if asyncio.get_running_loop().time() < resident.last_used + self._rules.idle_ttl:
            self._watch_idle(resident)
        else:
            log.info("%s has not been used for %g s", resident.spec.name, self._rules.idle_ttl)
            self._leave(resident)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        async def run() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await work

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _memory(residents: Iterable[Resident]) -> int:
    return sum(one.spec.need for one in residents)


def _refuse(waiters: Iterable["asyncio.Future[Resident]"], refusal: Refusal) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(refusal)
