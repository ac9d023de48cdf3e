"""Conditions that several processes share: real processes, killed at bad moments too."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from gatehook_plugins.cooldown.book import Book, Step
from gatehook_plugins.cooldown.condition import Condition

COUNT = """
import sys
from pathlib import Path
from msgspec.structs import replace
from gatehook_plugins.cooldown.book import Book

book = Book()
with book.shared(Path(sys.argv[1])):
    print("ready", flush=True)
    for _ in range(int(sys.argv[2])):
        book.change("d", lambda one: replace(one, failures=one.failures + 1))
"""


def more(condition: Condition) -> Condition:
    return replace(condition, failures=condition.failures + 1)


def test_alone_it_is_memory() -> None:
    book = Book()
    assert book.get("d") is None
    before, after = book.change("d", more)
    assert (before.failures, after.failures) == (0, 1)
    assert book.get("d") is after
    book.keep({"e"})
    assert book.get("d") is None


def test_what_one_writes_the_other_sees_at_its_next_look(tmp_path: Path) -> None:
    one, other = Book(), Book()
    with one.shared(tmp_path), other.shared(tmp_path):
        one.change("d", more)
        seen = other.get("d")
        assert seen is not None
        assert seen.failures == 1
        other.change("d", more)
        assert one.get("d") == Condition(failures=2)
        other.keep(set())
        assert one.get("d") is None


def test_no_change_of_several_processes_is_lost(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path), "300"]) for _ in range(3)]
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    book = Book()
    with book.shared(tmp_path):
        assert book.get("d") == Condition(failures=900)


def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_book_and_no_lock(tmp_path: Path) -> None:
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", COUNT, str(tmp_path), "1000000"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process, process.stdout:
            assert process.stdout.readline() == "ready\n"
            book = Book()
            with book.shared(tmp_path):
                while (book.get("d") or Condition()).failures < 20:
                    os.sched_yield()
                process.send_signal(signal.SIGKILL)
                process.wait(10)
                before, after = book.change("d", lambda one: Condition())
                assert before.failures >= 20
                assert book.get("d") == after == Condition()


def test_a_look_while_another_thread_changes_it_sees_a_whole_state() -> None:
    book, stop = Book(), threading.Event()

    def change() -> None:
        while not stop.is_set():
            for key in "abcdef":
                book.change(key, more)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(2000):
            assert all(condition.failures > 0 for condition in book.all().values())
    finally:
        stop.set()
        thread.join()


def test_a_book_that_cannot_be_written_goes_on_alone_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = Book(), Book()
    with one.shared(tmp_path), other.shared(tmp_path):
        one.change("d", more)
        blocker = tmp_path / "cooldown.new"
        blocker.mkdir()
        with caplog.at_level(logging.WARNING, "gatehook.cooldown"):
            for _ in range(3):
                one.change("d", more)
        assert one.get("d") == Condition(failures=4)
        assert caplog.text.count("cannot be shared") == 1
        assert other.get("d") == Condition(failures=1), "whole, as it was"
        blocker.rmdir()
        assert other.change("d", more)[1] == Condition(failures=2), "nobody holds the lock"


def test_who_goes_on_alone_shares_again_later_and_what_was_learnt_last_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learn(failures: int, at: float) -> Step:
        return lambda one: replace(one, failures=failures, checked=at)

    one, other = Book(), Book()
    blocker = tmp_path / "cooldown.new"
    with one.shared(tmp_path), other.shared(tmp_path):
        one.change("a", learn(1, 10))
        blocker.mkdir()
        one.change("a", learn(2, 20))
        one.change("b", learn(2, 20))
        assert one.all().keys() == {"a", "b"}
        monkeypatch.setattr("gatehook_plugins.cooldown.book.time.monotonic", lambda now=time.monotonic: now() + 61)
        assert one.change("a", learn(3, 30))[1].failures == 3, "it still cannot be written, and nothing is forgotten"
        blocker.rmdir()
        other.change("b", learn(7, 40))
        other.change("c", learn(7, 40))
        monkeypatch.setattr("gatehook_plugins.cooldown.book.time.monotonic", lambda now=time.monotonic: now() + 61)
        assert {key: condition.failures for key, condition in one.all().items()} == {"a": 3, "b": 7, "c": 7}
        assert other.all() == one.all()
        other.change("c", more)
        assert one.get("c") == Condition(failures=8, checked=40)


def test_a_book_is_its_processs_own_again_however_sharing_ends(tmp_path: Path) -> None:
    book = Book()
    try:
        with book.shared(tmp_path):
            book.change("d", more)
            raise RuntimeError
    except RuntimeError:
        pass
    assert book.change("d", more)[1] == Condition(failures=2)


STOPPED = """
import os, signal, sys
from pathlib import Path
from gatehook_plugins.cooldown.book import Book

def stop(condition):
    print("held", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    return condition

book = Book()
with book.shared(Path(sys.argv[1])):
    book.change("d", stop)
"""


def test_a_worker_that_is_stopped_while_it_changes_something_stops_nobody_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = Book()
    with book.shared(tmp_path):
        book.change("d", more)
        process = subprocess.Popen([sys.executable, "-c", STOPPED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process, process.stdout:
            assert process.stdout.readline() == "held\n"
            assert book.change("d", more) == (Condition(failures=1), Condition(failures=2))
            assert book.change("e", more)[1] == Condition(failures=1)
            process.kill()
    assert caplog.text.count("this worker goes on by what it learns itself") == 1
    assert "another worker holds the lock" in caplog.text
