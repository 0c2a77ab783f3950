"""What action plugins print while a module runs."""

import threading

from ansible_collections.mlops.platform.plugins.plugin_utils import progress


def test_lines_are_printed_as_they_come(tmp_path, monkeypatch):
    file, lines, printed, ended = tmp_path / "progress", [], threading.Event(), threading.Event()
    file.touch()
    monkeypatch.setattr(progress, "EVERY", 0.01)
    monkeypatch.setattr(progress.display, "display", lambda line: (lines.append(line), printed.set()))
    follower = threading.Thread(target=progress._follow, args=(str(file), ended))
    follower.start()
    with file.open("a") as writer:
        writer.write("cluster: running, 0 s\n")
        writer.flush()
        assert printed.wait(5)
        assert lines == ["  cluster: running, 0 s"]
        writer.write("cluster: done, 9 s\n")
    ended.set()
    follower.join(5)
    assert lines == ["  cluster: running, 0 s", "  cluster: done, 9 s"]
