import json
import os
import pathlib
import subprocess
import sys
import textwrap
import time

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.mirror.engine import Cancelled, Engine, Step, StepError


def engine(path, **options):
    lines = []
    built = Engine(path / "mirror", lines.append, **options)
    built.lines = lines
    return built


def graph(path, ran, source="1"):
    out = path / "out"

    def work(name):
        def run(job):
            ran.append(name)
            out.joinpath(name).write_text(name)
            return {"name": name, "of": [job.result(other) for other in job.step.after]}

        return run

    out.mkdir(exist_ok=True)
    return [
        Step("fetch", work("fetch"), source, lazy=True, outputs=(out / "fetch",), slot="net"),
        Step("build", work("build"), None, after=("fetch",), outputs=(out / "build",)),
        Step("other", work("other"), None, outputs=lambda result: [out / result["name"]]),
    ]


def test_runs_everything_once_and_then_nothing(tmp_path):
    ran = []
    done = engine(tmp_path).run(graph(tmp_path, ran))
    assert sorted(ran) == ["build", "fetch", "other"]
    assert {step["name"] for step in done} == {"build", "fetch", "other"}
    assert engine(tmp_path).run(graph(tmp_path, ran)) == []
    assert len(ran) == 3


def test_results_of_earlier_runs_are_there(tmp_path):
    ran = []
    engine(tmp_path).run(graph(tmp_path, ran))
    (tmp_path / "out/build").unlink()
    engine(tmp_path).run(graph(tmp_path, ran))
    stamp = json.loads((tmp_path / "mirror/stamps/build.json").read_text())
    assert stamp["result"]["of"] == [{"name": "fetch", "of": []}]
    assert ran[3:] == ["build"]  # its source was still there


def test_changed_input_runs_what_depends_on_it(tmp_path):
    ran = []
    engine(tmp_path).run(graph(tmp_path, ran))
    del ran[:]
    engine(tmp_path).run(graph(tmp_path, ran, source="2"))
    assert ran == ["fetch", "build"]


def test_lazy_step_runs_only_for_a_dependent(tmp_path):
    ran = []
    engine(tmp_path).run(graph(tmp_path, ran))
    del ran[:]
    (tmp_path / "out/fetch").unlink()
    assert engine(tmp_path).run(graph(tmp_path, ran)) == []
    (tmp_path / "out/build").unlink()
    engine(tmp_path).run(graph(tmp_path, ran))
    assert ran == ["fetch", "build"]


def test_absent_outcome_outside_the_cache_runs_again(tmp_path):
    there, keys = [], []

    def present(key):
        keys.append(key)
        return bool(there)

    step = Step("load", lambda job: there.append(job.key), "image", present=present)
    engine(tmp_path).run([step])
    assert engine(tmp_path).run([step]) == []
    there.clear()
    assert [done["name"] for done in engine(tmp_path).run([step])] == ["load"]
    assert set(keys) == set(there)


def test_failure_says_step_log_and_last_lines(tmp_path):
    def run(job):
        job.call([sys.executable, "-c", "print('first'); raise SystemExit('no such compiler')"])

    with pytest.raises(StepError) as failure:
        engine(tmp_path).run([Step("programs x", run)])
    assert str(failure.value).startswith("programs x: `")
    assert "ended with status 1" in str(failure.value)
    assert str(tmp_path / "mirror/logs/programs-x.log") in str(failure.value)
    assert "no such compiler" in str(failure.value)


def test_failure_ends_what_runs_beside_it_and_a_rerun_continues(tmp_path):
    ran = []

    def slow(job):
        ran.append("slow")
        job.call(["sleep", "60"])

    def fail(job):
        while "slow" not in ran:
            time.sleep(0.01)
        raise StepError("broken")

    begin = time.monotonic()
    with pytest.raises(StepError, match="broken"):
        engine(tmp_path).run([Step("quick", lambda job: ran.append("quick")), Step("slow", slow, slot="net"), Step("bad", fail)])
    assert time.monotonic() - begin < 20
    again = [Step("quick", lambda job: ran.append("again")), Step("bad", lambda job: None)]
    engine(tmp_path).run(again)
    assert "again" not in ran


def test_killed_run_leaves_no_stamp_and_no_process(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        import pathlib, sys
        from ansible_collections.mlops.platform.plugins.module_utils.mirror.engine import Engine, Step
        def run(job):
            job.call(["sh", "-c", "echo $$ > {tmp_path}/pid; exec sleep 300"])
        engine = Engine(pathlib.Path({str(tmp_path)!r}) / "mirror", print)
        with engine.locked():
            engine.run([Step("first", lambda job: None), Step("long", run, after=("first",))])
    """)
    )
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 30
    while not (pid.exists() and pid.read_text().strip()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    ran = []
    rerun = engine(tmp_path)
    with rerun.locked():  # waits until the leftover is gone
        rerun.run([Step("first", lambda job: ran.append("first")), Step("long", lambda job: ran.append("long"), after=("first",))])
    assert ran == ["long"]
    assert not pathlib.Path("/proc", pid.read_text().strip(), "exe").exists()


def test_fresh_directory_replaces_the_old_one_only_at_the_end(tmp_path):
    target = tmp_path / "tree"
    target.mkdir()
    (target / "old").write_text("")

    def broken(job):
        with job.fresh(target) as work:
            (work / "new").write_text("")
            raise StepError("interrupted")

    def good(job):
        with job.fresh(target) as work:
            assert not list(work.iterdir())
            (work / "new").write_text("")

    with pytest.raises(StepError):
        engine(tmp_path).run([Step("tree", broken)])
    assert [path.name for path in target.iterdir()] == ["old"]
    engine(tmp_path).run([Step("tree", good)])
    assert [path.name for path in target.iterdir()] == ["new"]


def test_plan_refuses_unknown_and_double_steps(tmp_path):
    with pytest.raises(ValueError, match="unknown steps: b"):
        engine(tmp_path).plan([Step("a", print, after=("b",))])
    with pytest.raises(ValueError, match="two steps are called a"):
        engine(tmp_path).plan([Step("a", print), Step("a", print)])


def test_slots_limit_what_runs_at_once(tmp_path):
    now, most = [], []

    def run(job):
        now.append(1)
        most.append(len(now))
        time.sleep(0.05)
        now.pop()

    engine(tmp_path, slots={"cpu": 1, "net": 1}).run([Step(f"s{number}", run) for number in range(4)])
    assert max(most) == 1


def test_long_steps_are_named_while_they_run(tmp_path):
    built = engine(tmp_path, heartbeat=0.5)
    built.run([Step("long one", lambda job: time.sleep(2.5))])
    assert any("… long one" in line for line in built.lines)
    assert "1/1  long one (00:02)" in built.lines[-1]


def test_cancelled_run_starts_no_further_process(tmp_path):
    built = engine(tmp_path)
    built.cancelled = True
    with pytest.raises(Cancelled):
        built.run([Step("a", lambda job: job.call(["true"]))])
