"""Runs the steps of a dependency graph, a few at a time, and only those whose inputs have changed since they last ran.

A step is done when its stamp holds the hash of its inputs (and of the steps it comes after) and its outputs exist. A stamp is
written after the step, at once as a whole: a run that was killed anywhere continues where it stopped.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable


class StepError(Exception):
    """A step failed; the message says which, why, and where its log is."""


class Cancelled(Exception):
    """The run ends because another step failed or the process that asked for it is gone."""


@dataclasses.dataclass
class Step:
    """One unit of work.

    inputs: anything that JSON can hold; its hash decides whether the step has to run again
    run: does the work; gets a Job, returns what dependents may ask for (JSON) or None
    after: steps whose results it needs; their inputs count as its own
    outputs: files that must exist for the step to be done; or a function of its result
    slot: what it mostly needs: `cpu`, `net` or `io`; each has its own number of workers
    lazy: only of use to other steps (sources, trees): runs when a step that has to run comes after it
    present: where the outcome is not a file (an image in Docker): asked with the step's hash, whether it is there
    """

    name: str
    run: Callable[[Job], object]
    inputs: object = None
    after: tuple[str, ...] = ()
    outputs: tuple[pathlib.Path, ...] | Callable[[object], Iterable[pathlib.Path]] = ()
    slot: str = "cpu"
    lazy: bool = False
    present: Callable[[str], bool] | None = None
    key: str = ""


def write_atomic(path: pathlib.Path, data: str | bytes) -> None:
    """Write a file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_bytes(data.encode() if isinstance(data, str) else data)
    new.replace(path)


def digest(value: object) -> str:
    """Return the hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Job:
    """What a running step works with: its log, and commands that end when the run ends."""

    def __init__(self, engine: Engine, step: Step):
        self.engine, self.step = engine, step
        self.key = step.key
        self.log = engine.directory / "logs" / (step.name.replace("/", "_").replace(" ", "-") + ".log")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")

    def result(self, name: str) -> object:
        """Return what the step of this name returned, now or in an earlier run."""
        if name not in self.step.after:
            raise KeyError(f"{self.step.name} does not come after {name}")
        return self.engine.results[name]

    def call(self, argv: list[str], *, capture: bool = False, stdin: Iterable[bytes] | None = None, check: bool = True, **options) -> str:
        """Run a command with its output in the step's log; return its standard output if `capture`."""
        # the command dies with this process, and holds the lock until then: a new run never meets a leftover of an old one
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(map(str, argv))}\n")
            log.flush()
            process = subprocess.Popen(
                [*self.engine.prefix, *map(str, argv)],
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE if capture else log,
                stderr=log,
                start_new_session=True,
                pass_fds=self.engine.lock_fds,
                **options,
            )
            with self.engine.watching(process):
                if stdin is not None:
                    with contextlib.suppress(BrokenPipeError), process.stdin:
                        for chunk in stdin:
                            process.stdin.write(chunk)
                    process.stdin = None
                out = process.communicate()[0]
        if self.engine.cancelled:
            raise Cancelled
        if process.returncode and check:
            raise StepError(f"`{pathlib.Path(str(argv[0])).name} {' '.join(map(str, argv[1:3]))}…` ended with status {process.returncode}")
        return out.decode() if capture else ""

    @contextlib.contextmanager
    def fresh(self, target: pathlib.Path):
        """Give an empty directory that takes the target's place when the block ends well."""
        work = target.with_name(f"{target.name}.work")
        remove_tree(work)
        work.mkdir(parents=True)
        yield work
        remove_tree(target)
        work.rename(target)

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def remove_tree(path: pathlib.Path) -> None:
    """Remove a directory (also one with read-only directories in it), if it is there."""
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for directory, _, _ in os.walk(path):
        os.chmod(directory, 0o755)
    shutil.rmtree(path)


class Engine:
    """Plans and runs steps; keeps stamps, logs and the lock below one directory."""

    def __init__(
        self, directory: pathlib.Path, say: Callable[[str], None] = print, slots: dict[str, int] | None = None, heartbeat: float = 30
    ):
        self.directory = pathlib.Path(directory)
        self.say, self.heartbeat = say, heartbeat
        self.slots = slots or {"cpu": 2, "net": 2, "io": 1}
        self.results: dict[str, object] = {}
        self.cancelled = False
        self.processes: set[subprocess.Popen] = set()
        self.lock_fds: tuple[int, ...] = ()
        setpriv = shutil.which("setpriv")
        self.prefix = [setpriv, "--pdeathsig", "KILL"] if setpriv else []

    # planning

    def _stamp(self, step: Step) -> pathlib.Path:
        return self.directory / "stamps" / (step.name.replace("/", "_").replace(" ", "-") + ".json")

    def _done(self, step: Step) -> bool:
        try:
            stamp = json.loads(self._stamp(step).read_text())
        except (OSError, ValueError):
            return False
        if stamp["key"] != step.key:
            return False
        outputs = step.outputs(stamp["result"]) if callable(step.outputs) else step.outputs
        if not all(os.path.lexists(path) for path in outputs) or (step.present and not step.present(step.key)):
            return False
        self.results[step.name] = stamp["result"]
        return True

    def plan(self, steps: list[Step]) -> list[Step]:
        """Return the steps that have to run, in an order that respects `after`; steps are given in such an order already."""
        by_name: dict[str, Step] = {}
        for step in steps:
            if step.name in by_name:
                raise ValueError(f"two steps are called {step.name}")
            missing = [name for name in step.after if name not in by_name]
            if missing:
                raise ValueError(f"{step.name} comes after unknown steps: {', '.join(missing)}")
            step.key = digest([step.inputs, [by_name[name].key for name in step.after]])
            by_name[step.name] = step
        open_steps = {step.name for step in steps if not self._done(step)}
        needed: set[str] = set()
        for step in reversed(steps):
            if step.name in open_steps and (not step.lazy or step.name in needed):
                needed.add(step.name)
                needed.update(name for name in step.after if name in open_steps)
        return [step for step in steps if step.name in needed]

    # running

    @contextlib.contextmanager
    def locked(self):
        """Let one run at a time work in the directory."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say(f"another run works in {self.directory}; waiting until it has finished")
                fcntl.flock(lock, fcntl.LOCK_EX)
            self.lock_fds = (lock.fileno(),)
            try:
                yield
            finally:
                self.lock_fds = ()

    @contextlib.contextmanager
    def watching(self, process: subprocess.Popen):
        """Know a process for as long as it runs, so that it can be ended."""
        self.processes.add(process)
        if self.cancelled:
            self.cancel()
        try:
            yield
        finally:
            if process.poll() is None:
                _kill(process)
            self.processes.discard(process)

    def cancel(self) -> None:
        """End what is running."""
        self.cancelled = True
        for process in list(self.processes):
            _kill(process)

    def _execute(self, step: Step) -> float:
        begin = time.monotonic()
        job = Job(self, step)
        try:
            self._stamp(step).unlink(missing_ok=True)
            result = step.run(job)
        except Cancelled:
            raise
        except Exception as error:
            if self.cancelled:
                raise Cancelled from error
            tail = job.tail()
            raise StepError(f"{step.name}: {error}" + (f"\nlast lines of {job.log}:\n{tail}" if tail else "")) from error
        self.results[step.name] = result
        seconds = time.monotonic() - begin
        write_atomic(self._stamp(step), json.dumps({"key": step.key, "result": result, "seconds": round(seconds, 1)}))
        return seconds

    def run(self, steps: list[Step]) -> list[dict]:
        """Run what has to run; return [{name, seconds}] of it. The first failure ends the run and is raised as StepError."""
        waiting = self.plan(steps)
        total, begin, parent, finished = len(waiting), time.monotonic(), os.getppid(), []
        undone = {step.name for step in waiting}
        running: dict[concurrent.futures.Future, tuple[Step, float]] = {}
        spoken = begin
        with concurrent.futures.ThreadPoolExecutor(sum(self.slots.values())) as pool:
            try:
                while waiting or running:
                    for step in list(waiting):
                        free = self.slots[step.slot] > sum(other.slot == step.slot for other, _ in running.values())
                        if free and not undone.intersection(step.after):
                            waiting.remove(step)
                            running[pool.submit(self._execute, step)] = (step, time.monotonic())
                    done, _ = concurrent.futures.wait(running, timeout=1, return_when=concurrent.futures.FIRST_COMPLETED)
                    for future in done:
                        step, _ = running.pop(future)
                        seconds = future.result()
                        undone.discard(step.name)
                        finished.append({"name": step.name, "seconds": round(seconds, 1)})
                        spoken = time.monotonic()
                        self.say(f"{_clock(spoken - begin)}  {len(finished):>{len(str(total))}}/{total}  {step.name} ({_clock(seconds)})")
                    if os.getppid() != parent:
                        raise Cancelled("the process that asked for the mirror is gone")
                    if running and time.monotonic() - spoken > self.heartbeat:
                        spoken = time.monotonic()
                        now = ", ".join(f"{step.name} ({_clock(spoken - since)})" for step, since in running.values())
                        self.say(f"{_clock(spoken - begin)}  {len(finished):>{len(str(total))}}/{total}  … {now}")
            except BaseException:
                self.cancel()
                raise
        return finished


def _kill(process: subprocess.Popen) -> None:
    # each command leads a session of its own: its children end with it
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
